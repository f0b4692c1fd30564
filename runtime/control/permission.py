# SPDX-License-Identifier: Apache-2.0
"""May the arm move? The guard and the operator must both have said so, recently; withdrawing counts at once."""

from __future__ import annotations

import math

from runtime.clock import Clock
from runtime.control.settings import Settings
from runtime.telemetry import StopCause


class Permission:
    """The newest words of guard and enabling input, in wall time: processes live and die in it."""

    def __init__(self, settings: Settings, wall: Clock) -> None:
        self._settings, self._wall = settings, wall
        self._guard_s = self._enable_s = -math.inf

    def permit(self, granted: bool) -> None:
        """The guard's word."""
        self._guard_s = self._wall.now() if granted else -math.inf

    def enable(self, held: bool) -> None:
        """The enabling input."""
        self._enable_s = self._wall.now() if held else -math.inf

    @property
    def lost(self) -> StopCause:
        """Whose permission is missing or too old; NONE if nobody's."""
        now, settings = self._wall.now(), self._settings
        if settings.require_permit and now - self._guard_s > settings.permit_timeout_s:
            return StopCause.PERMIT_LOST
        if settings.require_enable and now - self._enable_s > settings.permit_timeout_s:
            return StopCause.ENABLE_LOST
        return StopCause.NONE

    @property
    def granted(self) -> bool:
        """Motion is permitted now."""
        return self.lost is StopCause.NONE
