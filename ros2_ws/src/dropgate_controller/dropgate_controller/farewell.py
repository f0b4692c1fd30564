# SPDX-License-Identifier: Apache-2.0
"""After a lifecycle shutdown: what is configured is torn down as soon as whoever gave a goal has its result.

Not within the transition: results are sent by the executor, which is busy with the transition. Simulated time
goes on only afterwards too, so an arm that could not be braked meanwhile is braked now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dropgate_controller.controller_node import ControllerNode

LOOK_S, LOOKS = 0.05, 40  # after 2 s it is done anyway
NOT_AT_REST = "the node ends before the arm rests: the arm has its own stop only"


class Farewell:
    """Calls `leave` once the node says `over`, or is out of patience."""

    def __init__(self, node: ControllerNode, leave: Callable[[], None]) -> None:
        self._node, self._leave, self._left = node, leave, LOOKS
        self._timer = node.create_timer(LOOK_S, self._look, clock=node.steady)

    def _look(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._node.destroy_timer(self._timer)
            if not self._node.rests:
                self._node.get_logger().error(NOT_AT_REST)
            self._leave()
        elif self._node.over:
            self._left = 1  # the next look is the last: what the result has left to send comes before it
