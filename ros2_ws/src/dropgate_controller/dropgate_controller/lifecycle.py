# SPDX-License-Identifier: Apache-2.0
"""A lifecycle request that does not fit the state is refused; rclpy would raise, and the node would be gone."""

from __future__ import annotations

from lifecycle_msgs.srv import ChangeState
from rclpy._rclpy_pybind11 import RCLError
from rclpy.lifecycle import Node
from rclpy.service import Service


def refuse_wrong_transitions(node: Node) -> None:
    """Answer `success: false` to a `~/change_state` that is not possible now."""
    for service in node.services:
        if service.srv_type is ChangeState:
            _refuse(node, service)


def _refuse(node: Node, service: Service) -> None:
    carry_out = service.callback

    def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
        try:
            return carry_out(request, response)
        except RCLError as error:
            node.get_logger().warning(f"transition {request.transition.id} refused: {error}")
            response.success = False
            return response

    service.callback = answer
