# SPDX-License-Identifier: Apache-2.0
"""Drop-Then-Recovery (arXiv 2606.27755): remove the blocks of a plan, then fine-tune what is left."""
