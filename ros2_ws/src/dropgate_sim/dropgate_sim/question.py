# SPDX-License-Identifier: Apache-2.0
"""A service call whose answer may get lost on the way.

A server answers nobody whom it has not discovered yet: rmw_fastrtps then waits 0.1 s and drops the reply ("client will
not receive response"), and the first call of a fresh client waits for ever. So the request is sent again.
"""

from __future__ import annotations

import time
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client

AGAIN_S = 4.0
LEADS_TO = {
    Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
}


class Question:
    """One request, sent now, and again every `again_s` until it is answered. Poll `done` while the node spins.

    What is asked may be carried out twice: fit for services that set something.
    """

    def __init__(self, client: Client, request: Any, again_s: float = AGAIN_S) -> None:
        self._client, self._request, self._again_s = client, request, again_s
        self._sent = [client.call_async(request)]
        self._due_s = time.monotonic() + again_s

    @property
    def sent(self) -> int:
        """How often."""
        return len(self._sent)

    def done(self) -> bool:
        """Whether an answer is there."""
        if any(future.done() for future in self._sent):
            return True
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + self._again_s
            self._sent.append(self._client.call_async(self._request))
        return False

    def answer(self) -> Any:
        """The first answer; the requests that got none are forgotten."""
        found = next(future for future in self._sent if future.done())
        for future in self._sent:
            if not future.done():
                self._client.remove_pending_request(future)
        return found.result()


class TransitionQuestion:
    """A lifecycle transition. Sent twice, the second is refused where the first was carried out: the state decides."""

    def __init__(self, change: Client, get: Client, transition: int) -> None:
        self._goal = LEADS_TO[transition]
        self._change = Question(change, ChangeState.Request(transition=Transition(id=transition)))
        self._get, self._state = get, None

    def done(self) -> bool:
        """Whether it is known how it went."""
        if self._state is not None:
            return bool(self._state.done())
        if not self._change.done():
            return False
        if self._change.sent == 1 or self._change.answer().success:
            return True
        self._state = Question(self._get, GetState.Request())
        return False

    def answer(self) -> bool:
        """Whether the node is where the transition leads."""
        if self._state is not None:
            return bool(self._state.answer().current_state.id == self._goal)
        return bool(self._change.answer().success)
