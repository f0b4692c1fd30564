# SPDX-License-Identifier: Apache-2.0
"""Instants in signed statements: RFC 3339, whole seconds, UTC, written with `Z`; one spelling each."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from runtime.contract import check
from runtime.errors import ContractError

_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def parse_utc(text: str, where: str) -> datetime:
    """The instant; ContractError for another spelling, another zone, or a day that does not exist."""
    check.require(_INSTANT.fullmatch(text) is not None, where, text, "a time such as 2026-11-27T20:00:00Z")
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError as error:
        raise ContractError(f"{where}: found {text!r}, which is no time ({error})") from None


def format_utc(instant: datetime) -> str:
    """Text of an aware instant, cut to the second; ContractError for one without zone."""
    return aware(instant, "time").strftime("%Y-%m-%dT%H:%M:%SZ")


def aware(instant: datetime, where: str) -> datetime:
    """The same instant in UTC; ContractError for one without zone, whose meaning depends on the machine."""
    if instant.tzinfo is None:
        raise ContractError(f"{where}: found {instant} without a zone, expected datetime.now(timezone.utc)")
    return instant.astimezone(timezone.utc)


def utc_now() -> datetime:
    """The machine's wall clock."""
    return datetime.now(timezone.utc)
