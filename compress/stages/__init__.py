# SPDX-License-Identifier: Apache-2.0
"""One file per stage: which settings decide it, which files it reads, and `run`. `compress.pipeline` has the order."""
