# SPDX-License-Identifier: Apache-2.0
"""What goes wrong while somebody signs or decides whom to believe."""

from __future__ import annotations


class SigningError(ValueError):
    """Nothing was signed or written; says what was found, what was expected, and the next command."""
