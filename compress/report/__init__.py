# SPDX-License-Identifier: Apache-2.0
"""The page that a person reads before letting an artifact near an arm: one HTML file, made from the evidence files."""

from __future__ import annotations

from compress.report.errors import ReportError
from compress.report.page import build

__all__ = ["ReportError", "build"]
