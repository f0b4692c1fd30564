# SPDX-License-Identifier: Apache-2.0
"""`~/arm`, `~/stop` and `~/reset_fault`: what a person asks of the arm, and why it is not possible now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from std_srvs.srv import SetBool, Trigger

from dropgate_controller.assembly import revive
from runtime.control.controller import Controller
from runtime.control.state import Event, NotAllowed
from runtime.errors import DropGateRuntimeError

if TYPE_CHECKING:
    from dropgate_controller.controller_node import ControllerNode


class OperatorServices:
    """The services of one configuration."""

    def __init__(self, node: ControllerNode) -> None:
        self._node = node
        self._made = [
            node.create_service(SetBool, "~/arm", self._arm),
            node.create_service(Trigger, "~/stop", self._stop),
            node.create_service(Trigger, "~/reset_fault", self._reset),
        ]

    def close(self) -> None:
        """Off the graph."""
        for service in self._made:
            self._node.destroy_service(service)

    def _arm(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """What is not possible now is not decided about. The rest is decided again, from the disk and before the lock
        is taken, under which everything is looked at once more."""
        node, loaded = self._node, self._node.loaded

        def possible(controller: Controller) -> None:
            if not (controller.machine.can(Event.ARMED) and controller.permission.granted):
                controller.arm(True)  # says why not
            node.require_sole_command()

        def arm(controller: Controller) -> None:
            if request.data:
                node.require_sole_command()
            controller.arm(request.data)

        if request.data and node.moves:
            response.success, response.message = node.do(possible)
            if not response.success:
                return response
        try:
            if request.data and loaded is not None:
                loaded.gatekeeper.may_arm(loaded.worker.ready)
        except NotAllowed as error:
            node.get_logger().warning(f"not armed: {error}")
            node.publish_status()
            response.success, response.message = False, str(error)
            return response
        response.success, response.message = node.do(arm)
        return response

    def _stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._node.do(lambda controller: controller.stop())
        return response

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Start a dead worker again, then reset; the arm stays disarmed."""
        node = self._node
        try:
            revive(node.loaded, node.lock, node.told.is_set)
        except DropGateRuntimeError as error:
            response.success, response.message = False, str(error)
            return response

        def reset(controller: Controller) -> None:
            node.require_no_rival()
            controller.reset_fault()

        response.success, response.message = node.do(reset)
        return response
