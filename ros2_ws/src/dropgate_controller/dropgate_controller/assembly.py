# SPDX-License-Identifier: Apache-2.0
"""From parameters to a controller that is ready: verify, decide, load, put the parts together."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import RLock
from typing import Any

from rclpy.lifecycle import Node

from dropgate_controller import description, parameters
from dropgate_controller.gatekeeper import Gatekeeper, note_refusal
from dropgate_controller.node_time import NodeTime
from dropgate_controller.policy_link import WorkerLink
from runtime.clock import Clock
from runtime.contract.artifact import Artifact, read_artifact
from runtime.contract.conventions import ActionKind
from runtime.control.controller import Controller
from runtime.control.state import MOVING
from runtime.errors import BackendError, DropGateRuntimeError, TrustError
from runtime.inference.delay import of_worker
from runtime.inference.policy import check_verdict
from runtime.inference.worker_client import PolicyWorker
from runtime.recording.recorder import RecordedBuffer, RecordedController
from runtime.recording.recording import Recording
from runtime.recording.setup import Setup
from runtime.recording.tape import DECISION, Tape
from runtime.safety.filter import SafetyFilter
from runtime.safety.trajectory import CommandKind

Parts = tuple[Artifact, parameters.Station, PolicyWorker, SafetyFilter, Gatekeeper, Recording | None]
DECIDED = ("world", "admission", "release", "release expires at", "limits sha256")  # what a recording says of itself


@dataclass(frozen=True)
class Loaded:
    """One configured controller and what it was made of."""

    artifact: Artifact
    station: parameters.Station
    worker: PolicyWorker
    link: WorkerLink
    filter: SafetyFilter
    controller: Controller
    gatekeeper: Gatekeeper
    recording: Recording | None = None

    def close(self) -> None:
        """End the worker, finish the recording."""
        try:
            self.worker.close()
        finally:
            if self.recording is not None:
                self.recording.close()


def assemble(node: Node, wall: Clock, lock: RLock, over: Callable[[], bool] = lambda: False) -> Loaded:
    """Everything that must hold before the arm may be armed, cheapest first. What was begun is undone if it fails.

    Args:
        node: whose parameters say all.
        wall: the machine's time.
        lock: guards the controller.
        over: nobody waits for the worker any more.

    Raises:
        runtime.errors.DropGateRuntimeError: the artifact is damaged, not admitted, or cannot be run here.
        ParameterError: the robot's parameters do not fit.
    """
    artifact, station = _read(node)
    gatekeeper = Gatekeeper(artifact, station)
    gatekeeper.before_loading()
    setup = _setup(node, artifact, station)
    filter_ = setup.filter()
    with contextlib.ExitStack() as undo:
        worker = PolicyWorker(artifact, station.worker)
        undo.callback(worker.close)
        _load(worker, artifact, station, gatekeeper, over)
        recording = _recording(node, _decided(setup, gatekeeper))
        if recording is not None:
            undo.callback(recording.close)
        loaded = _together(node, (artifact, station, worker, filter_, gatekeeper, recording), setup, wall)
        undo.pop_all()
    if recording is not None:
        gatekeeper.tell = _noting(recording.tape, lock)
    return loaded


def _together(node: Node, parts: Parts, setup: Setup, wall: Clock) -> Loaded:
    artifact, station, worker, filter_, gatekeeper, recording = parts
    link, clock = WorkerLink(worker), NodeTime(node)
    controller: Controller
    if recording is None:
        controller = Controller(station.settings, filter_, setup.buffer(), link, clock, wall)
    else:
        taped = RecordedBuffer(setup, recording.tape)
        controller = RecordedController(station.settings, filter_, taped, link, clock, wall, recording.tape)
    return Loaded(artifact, station, worker, link, filter_, controller, gatekeeper, recording)


def _setup(node: Node, artifact: Artifact, station: parameters.Station) -> Setup:
    """Everything that the controller is made of, as a recording keeps it."""
    manifest = artifact.manifest
    meant = manifest.policy.action
    if not station.simulated and meant.kind is ActionKind.DELTA and meant.follows is None:
        node.get_logger().warning(
            "the artifact does not say which share of its deltas the arm of its demonstrations went "
            "(`follows`): they are taken as the way itself"
        )
    policy = dataclasses.replace(manifest.policy, action=station.meaning(meant))
    about = {"artifact_id": manifest.artifact_id, "policy_id": manifest.policy_id, "robot": station.robot}
    needs_tcp = station.kind is CommandKind.TWIST
    return Setup(
        policy, station.limits, station.timing, station.settings, station.state, station.joint_names, needs_tcp, about,
        description.arm(node, station), artifact.normalizers().action,
    )  # fmt: skip


def _decided(setup: Setup, gatekeeper: Gatekeeper) -> Setup:
    """With what was decided at configure; later decisions are events."""
    told = {name: value for name, value in gatekeeper.values.items() if name in DECIDED and value}
    return dataclasses.replace(setup, about={**setup.about, **told})


def _noting(tape: Tape, lock: RLock) -> Callable[[dict[str, Any]], None]:
    """Decisions onto the tape, between two ticks."""

    def note(decision: dict[str, Any]) -> None:
        with lock, tape.event(DECISION, decision):
            pass

    return note


def _recording(node: Node, setup: Setup) -> Recording | None:
    """A new file in `record_dir`, or None. Raises RecordingError, OSError."""
    folder = parameters.record_dir(node)
    if folder is None:
        return None
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return Recording(
        folder / f"{setup.about['robot'] or 'robot'}-{stamp}-{time.monotonic_ns() % 1_000_000:06d}.mcap", setup
    )


def revive(loaded: Loaded | None, lock: RLock, over: Callable[[], bool] = lambda: False) -> None:
    """Start a dead worker; meanwhile the ticks, which go on, leave it alone. Raises BackendError, also once
    nobody waits any more (`over`).

    Never under a moving arm: it takes seconds, in which `~/stop` would not be heard; the tick faults and brakes.
    """
    if loaded is None or loaded.worker.alive:
        return
    with lock:  # no tick is polling it now, and none will
        if loaded.controller.state in MOVING:
            return
        loaded.link.suspended = True
    try:
        loaded.worker.close()  # it may still be ending
        start(loaded.worker, over)
        loaded.link.restarted()
    finally:
        loaded.link.suspended = False


def start(worker: PolicyWorker, over: Callable[[], bool] = lambda: False) -> None:
    """Start the worker and wait until it has verified, loaded and warmed up. Raises BackendError with its reason, or
    once the wait is `over`; if that was so before, nothing is started."""
    late = "the policy worker was not waited for: this process is told to end"
    if over():
        raise BackendError(late)
    worker.start()
    while not worker.ready:
        worker.poll()
        if not worker.alive:
            raise BackendError(f"the policy worker did not start: {worker.died_because}")
        if over():
            raise BackendError(late)
        time.sleep(0.01)


def _read(node: Node) -> tuple[Artifact, parameters.Station]:
    """Artifact and station, whole. A real arm's verdict is left to the gatekeeper, who names every reason at once."""
    try:
        artifact = read_artifact(parameters.artifact_path(node))
        station = parameters.read(node, artifact.manifest.policy)
        if station.world is not parameters.World.REAL:
            check_verdict(artifact.manifest, allow_unsealed=False, require_promoted=station.enable_motion)
    except (DropGateRuntimeError, parameters.ParameterError) as error:
        with contextlib.suppress(TrustError):  # refused anyway
            note_refusal(parameters.evidence_dir(node), node.get_parameter("robot").value, error)
        raise
    return artifact, station


def _load(
    worker: PolicyWorker, artifact: Artifact, station: parameters.Station, gatekeeper: Gatekeeper,
    over: Callable[[], bool],
) -> None:  # fmt: skip
    """Start the worker and write the decision down. For a real arm it answers the golden samples first, and must be
    fast enough that the arm does not stop and go between chunks."""
    try:
        if station.enable_motion and not worker.for_motion:
            raise BackendError("worker: this engine's answers must not move a robot; use onnxruntime")
        start(worker, over)
        if station.enable_motion and station.world is parameters.World.REAL:
            pace, spec = station.settings.pace, artifact.manifest.policy.action
            asked_early = int(pace.lead_s / spec.dt_s + 1e-9)  # rows that are left when the next chunk is asked for
            of_worker(worker, artifact, over).require(spec, max(1, min(pace.rows, spec.horizon) - asked_early))
    except DropGateRuntimeError as error:
        gatekeeper.loaded(error)
        raise
    gatekeeper.loaded()
