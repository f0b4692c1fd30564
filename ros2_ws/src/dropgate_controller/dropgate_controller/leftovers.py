# SPDX-License-Identifier: Apache-2.0
"""What a step that failed half-way has already put on the graph, taken back whoever made it."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node

KINDS = ("publisher", "subscription", "service", "client", "timer")


def made_by(node: Node) -> list[Any]:
    """All that the node has on the graph, and its timers. Action servers are not among it."""
    return [thing for kind in KINDS for thing in getattr(node, f"{kind}s")]


def take_back(node: Node, before: list[Any]) -> None:
    """Destroy what was not there before."""
    kept = {id(thing) for thing in before}
    for kind in KINDS:
        for thing in [thing for thing in getattr(node, f"{kind}s") if id(thing) not in kept]:
            getattr(node, f"destroy_{kind}")(thing)
