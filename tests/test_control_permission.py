# SPDX-License-Identifier: Apache-2.0
"""Permission must be given, by everybody who is asked, and lately; taking it back counts at once."""

from dataclasses import replace

import pytest

from runtime.clock import FakeClock
from runtime.control.permission import Permission
from runtime.control.scheduler import Pace
from runtime.control.settings import Settings
from runtime.telemetry import StopCause

BOTH = Settings(Pace(8, 0.1), permit_timeout_s=0.25, require_permit=True, require_enable=True)  # exact in binary


def asked(**changes) -> tuple[Permission, FakeClock]:
    wall = FakeClock(5.0)
    return Permission(replace(BOTH, **changes), wall), wall


def test_nobody_has_said_anything_is_no_permission():
    assert asked()[0].lost is StopCause.PERMIT_LOST
    assert asked(require_permit=False)[0].lost is StopCause.ENABLE_LOST
    assert asked(require_enable=False)[0].lost is StopCause.PERMIT_LOST
    assert not asked()[0].granted


def test_both_words_are_needed_and_neither_stands_for_the_other():
    permission, _ = asked()
    permission.enable(True)
    assert permission.lost is StopCause.PERMIT_LOST
    permission.permit(True)
    assert permission.lost is StopCause.NONE
    assert permission.granted
    permission, _ = asked()
    permission.permit(True)
    assert permission.lost is StopCause.ENABLE_LOST


def test_who_is_not_asked_cannot_hold_the_arm():
    permission, _ = asked(require_permit=False)
    permission.enable(True)
    assert permission.granted
    permission, _ = asked(require_enable=False)
    permission.permit(True)
    assert permission.granted
    assert asked(require_permit=False, require_enable=False)[0].granted


@pytest.mark.parametrize(("who", "lost"), [("permit", StopCause.PERMIT_LOST), ("enable", StopCause.ENABLE_LOST)])
def test_a_word_that_is_not_renewed_runs_out_and_one_taken_back_counts_at_once(who, lost):
    permission, wall = asked()
    permission.permit(True)
    permission.enable(True)
    wall.advance(0.25)
    assert permission.granted, "as old as allowed"
    getattr(permission, "enable" if who == "permit" else "permit")(True)
    wall.advance(0.01)
    assert permission.lost is lost
    getattr(permission, who)(True)
    assert permission.granted
    getattr(permission, who)(False)
    assert permission.lost is lost
