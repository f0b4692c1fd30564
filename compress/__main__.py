# SPDX-License-Identifier: Apache-2.0
"""`python -m compress`: the same as the `compress` command, whatever else of that name is on the path."""

from __future__ import annotations

import sys

from compress.cli import main

if __name__ == "__main__":
    sys.exit(main())
