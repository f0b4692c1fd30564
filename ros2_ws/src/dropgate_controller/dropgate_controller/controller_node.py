# SPDX-License-Identifier: Apache-2.0
"""`controller_node`: the closed loop as a managed ROS 2 node. Only translation: what happens is in `runtime.control`.

configure = verify the artifact, check its verdicts, load it in its worker, warm up; activate = goals are taken;
deactivate stops first. In shadow mode (`enable_motion` false) there is no command publisher at all.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from dropgate_interfaces.msg import RuntimeStatus
from rclpy._rclpy_pybind11 import RCLError
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.exceptions import NameValidationException
from rclpy.lifecycle import LifecycleState, Node, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dropgate_controller import declared, parameters, reports
from dropgate_controller.assembly import Loaded, assemble
from dropgate_controller.farewell import NOT_AT_REST, Farewell
from dropgate_controller.leftovers import made_by, take_back
from dropgate_controller.lifecycle import refuse_wrong_transitions
from dropgate_controller.node_runner import run_node
from dropgate_controller.operator_services import OperatorServices
from dropgate_controller.outputs import NEWEST, Outputs
from dropgate_controller.sensors import subscribe
from dropgate_controller.task_server import TaskServer
from dropgate_controller.ticker import Ticker
from runtime.clock import Clock, MonotonicClock
from runtime.control.controller import Controller
from runtime.control.state import MOVING, ON_TASK, NotAllowed
from runtime.errors import DropGateRuntimeError
from runtime.telemetry import StopCause

HEARTBEAT_S, STOP_WAIT_S = 0.05, 2.0
SWITCH_S = 1e-4  # the executor's Python gives the interpreter up to the ticks at once, not after the default 5 ms
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
REFUSALS = (DropGateRuntimeError, parameters.ParameterError, NotAllowed, OSError, ValueError, NameValidationException)


class ControllerNode(Node):
    """See the module. The executor's thread senses and serves, the tick thread controls; one lock guards both.

    Nothing that waits is done while holding it. The heartbeat comes from the tick thread: it vouches for the ticks.
    """

    def __init__(self) -> None:
        super().__init__("dropgate_controller")
        sys.setswitchinterval(SWITCH_S)
        declared.declare(self)
        self.lock = threading.RLock()
        self.loaded: Loaded | None = None
        self.steady = RosClock(clock_type=ClockType.STEADY_TIME)  # goes on while simulated time stands still
        self._wall: Clock = MonotonicClock()
        self._outputs: Outputs | None = None
        self._tasks: TaskServer | None = None
        self._operator: OperatorServices | None = None
        self._made: list[Any] = []
        self._beat, self._beat_s, self._said, self._why = 0, 0.0, ("", ""), ""
        self._status = self.create_publisher(RuntimeStatus, "~/status", LATCHED)
        refuse_wrong_transitions(self)
        self.told = threading.Event()  # to end
        self._ticker = Ticker(self._turn, self.is_end)
        self._ticker.start()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Verify, load, warm up. Any reason against it is logged, shown in the status, and refuses the transition."""
        before = made_by(self)
        try:
            with contextlib.ExitStack() as undo:
                loaded = assemble(self, self._wall, self.lock, self.told.is_set)
                undo.callback(loaded.close)
                undo.callback(take_back, self, before)
                undo.callback(self._tear_down)
                with self.lock:
                    self._connect(loaded)
                    self._why, self.loaded = "", loaded
                undo.pop_all()
        except Exception as error:  # rclpy would swallow it: no reason anywhere
            return self._refused(error)
        self.publish_status()
        gc.collect()
        gc.freeze()  # no tick waits for a look at all that was just loaded
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From now on the arm can be armed and goals are taken."""
        self.do(lambda controller: controller.activate())
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop first, then leave; fails if the arm is not at rest in time (simulated time waits for this call)."""
        self._come_to_rest(StopCause.DEACTIVATED, "deactivated")
        done, text = self.do(lambda controller: controller.deactivate())
        if not done:
            self.get_logger().error(f"deactivate refused: {text}")
            return TransitionCallbackReturn.FAILURE
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the artifact and end its worker."""
        self._tear_down()
        gc.unfreeze()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop first, as deactivating does; then forget all."""
        self._come_to_rest(StopCause.DEACTIVATED, "shut down")
        self.do(lambda controller: controller.deactivate())  # nothing begins any more
        if self.over:
            self._tear_down()
        else:
            Farewell(self, self._tear_down)
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """End the ticks and the worker with the node; an arm that still moves is stopped before."""
        try:
            if self.context.ok():
                self._come_to_rest(StopCause.STOP_REQUESTED, "the node ends")
            if not self.rests:
                self.get_logger().error(NOT_AT_REST)
        finally:
            self._ticker.stop()
            try:
                self._tear_down()
            finally:
                super().destroy_node()

    def end(self, why: str) -> None:
        """What `~/stop` does, once, because the process has been told to end; from any thread."""
        with self.lock:
            if self.told.is_set():
                return
            self.told.set()
            self.do(lambda controller: controller.stop(f"the process was told to end ({why})"))

    @property
    def rests(self) -> bool:
        """Nothing moves, and nothing is being played."""
        loaded, outputs = self.loaded, self._outputs
        return loaded is None or not (loaded.controller.state in MOVING or (outputs is not None and outputs.playing))

    @property
    def over(self) -> bool:
        """It rests, and whoever gave a goal has its result."""
        return self.rests and not (self._tasks is not None and self._tasks.busy)

    def is_end(self, error: Exception) -> bool:
        """The graph is gone, nobody can be told anything: no failure of the one who tries."""
        return isinstance(error, RCLError) and not self.context.ok()

    def now_s(self) -> float:
        """ROS time [s]."""
        return float(self.get_clock().now().nanoseconds * 1e-9)

    @property
    def moves(self) -> bool:
        """Commands are sent: this is not shadow mode."""
        return self.loaded is not None and self.loaded.station.enable_motion

    def do(self, action: Callable[[Controller], Any]) -> tuple[bool, str]:
        """Act on the controller under the lock; (False, why) if it is not possible now."""
        with self.lock:
            if self.loaded is None:
                return False, "the controller is not configured"
            try:
                action(self.loaded.controller)
            except NotAllowed as error:
                return False, str(error)
            state = self.loaded.controller.state.value
        self.publish_status()
        return True, state

    def require_no_rival(self) -> None:
        """Raises NotAllowed if somebody else commands the arm, or if this process is about to end."""
        if self.told.is_set():
            raise NotAllowed("this process was told to end")
        if self._outputs is not None and (rivals := self._outputs.rivals()):
            raise NotAllowed(rivals)

    def require_sole_command(self) -> None:
        """Raises NotAllowed if a command would not be the only one, or would reach nobody."""
        self.require_no_rival()
        if self._outputs is not None and (unheard := self._outputs.unheard()):
            raise NotAllowed(unheard)

    def _come_to_rest(self, cause: StopCause, text: str) -> None:
        """Stop what moves and wait for its rest, at most STOP_WAIT_S."""

        def stop(controller: Controller) -> None:
            if controller.state in MOVING:
                controller.fault(cause, text)

        self.do(stop)
        until = self._wall.now() + STOP_WAIT_S
        while not self.rests and self._wall.now() < until:
            time.sleep(0.01)  # the tick brakes meanwhile, in its own thread

    def _refused(self, error: Exception) -> TransitionCallbackReturn:
        """Say why; of what nobody has foreseen, also where."""
        self._why = " ".join(f"{type(error).__name__}: {error}".split())
        where = "" if isinstance(error, REFUSALS) else f"\n{traceback.format_exc()}"
        self.get_logger().error(f"configure refused: {self._why}{where}")
        self.publish_status()
        return TransitionCallbackReturn.FAILURE

    def _connect(self, loaded: Loaded) -> None:
        """Everything on the graph that exists only while configured."""
        self._outputs = Outputs(self, loaded)
        self._tasks = TaskServer(self)
        self._operator = OperatorServices(self)
        timer = self.create_timer(1.0, self._diagnose, clock=self.steady)
        self._made += [timer, *subscribe(self, loaded, self._hold, NEWEST)]

    def _tear_down(self) -> None:
        """Whatever of it fails, the worker is ended and the recording finished."""
        with contextlib.ExitStack() as last, self.lock:  # no tick sees half of it
            loaded, self.loaded = self.loaded, None
            if loaded is not None:
                last.callback(loaded.close)
            parts = [part for part in (self._outputs, self._tasks, self._operator) if part is not None]
            self._outputs = self._tasks = self._operator = None
            for part in parts:
                last.callback(part.close)
            for thing in self._made:
                any(destroy(thing) for destroy in (self.destroy_subscription, self.destroy_timer))
            self._made.clear()

    def _hold(self, action: Callable[[Controller], Any]) -> None:
        with self.lock:
            if self.loaded is not None:
                action(self.loaded.controller)

    def _turn(self) -> float:
        """One tick, and now and then a heartbeat; gives the seconds to the next turn."""
        with self.lock:
            now = self._wall.now()
            if now >= self._beat_s:
                self._beat_s = now + HEARTBEAT_S
                self._heartbeat()
            if self.loaded is None:
                return HEARTBEAT_S
            self._tick(self.loaded)
            return 1.0 / self.loaded.station.tick_hz

    def _tick(self, loaded: Loaded) -> None:
        tick = loaded.controller.tick()
        if self._outputs is not None:
            if tick.command is not None:
                self._outputs.send(tick.command)
            self._outputs.show(tick)
        found = (tick.state.value, loaded.controller.incident.text)
        if found != self._said:
            self._said = found
            self.get_logger().info(": ".join(part for part in found if part))
            self.publish_status()
        if tick.ended is not None and self._tasks is not None:
            self._tasks.ended(tick.ended)

    def _heartbeat(self) -> None:
        self._beat += 1
        if self.loaded is not None and self._outputs is not None and self.loaded.controller.state in ON_TASK:
            rivals = self._outputs.rivals()
            if rivals:
                self.do(lambda controller: controller.fault(StopCause.COMMAND_CONFLICT, rivals))
        self.publish_status()

    def publish_status(self) -> None:
        """The newest status, at once; sent under the lock, so that no older one follows and stays."""
        with self.lock:
            stamp = self.get_clock().now().to_msg()
            self._status.publish(reports.status(self.loaded, stamp, self.now_s(), self._beat, self._why))

    def _diagnose(self) -> None:
        with self.lock:
            recording = None if self.loaded is None else self.loaded.recording
            if recording is not None and recording.trouble:
                self.get_logger().warning(f"recording ended: {recording.trouble}", throttle_duration_sec=60.0)
            if self._outputs is not None:
                self._outputs.diagnose(self.get_clock().now().to_msg())


def main() -> None:
    """Console script."""
    run_node(ControllerNode, stop=ControllerNode.end, rests=lambda node: node.over)


if __name__ == "__main__":
    main()
