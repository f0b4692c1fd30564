# SPDX-License-Identifier: Apache-2.0
"""One file per stage of a run: which settings decide it, which files it reads, and `run`. The order is `compress.pipeline`'s."""
