# SPDX-License-Identifier: Apache-2.0
"""From parameters to a controller that is ready: verify, check the verdicts, load, put the parts together."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rclpy.lifecycle import Node

from dropgate_controller import parameters
from dropgate_controller.node_time import NodeTime
from dropgate_controller.policy_link import WorkerLink
from runtime.clock import Clock
from runtime.contract.artifact import Artifact, read_artifact
from runtime.contract.regression import check_regression
from runtime.control.controller import Controller
from runtime.control.observation import ObservationBuffer
from runtime.control.state_map import StateMap
from runtime.errors import BackendError
from runtime.inference.policy import check_verdict
from runtime.inference.worker_client import PolicyWorker
from runtime.safety.filter import SafetyFilter
from runtime.safety.trajectory import CommandKind


@dataclass(frozen=True)
class Loaded:
    """One configured controller and what it was made of."""

    artifact: Artifact
    station: parameters.Station
    worker: PolicyWorker
    link: WorkerLink
    filter: SafetyFilter
    controller: Controller


def assemble(node: Node, wall: Clock) -> Loaded:
    """Everything that must hold before the arm may be armed, cheapest first.

    Raises:
        runtime.errors.DropGateRuntimeError: the artifact is damaged, not proven, or cannot be run here.
        ParameterError: the robot's parameters do not fit.
    """
    moves = node.get_parameter("enable_motion").value
    artifact = read_artifact(parameters.artifact_path(node))
    check_verdict(artifact.manifest, allow_unsealed=False, require_promoted=moves)
    policy = artifact.manifest.policy
    station = parameters.read(node, policy)
    if moves and station.require_regression:
        check_regression(artifact, station.robot)
    filter_ = SafetyFilter(policy.action, station.limits, station.timing, parameters.kinematics(node, station))
    needs_tcp = station.kind is CommandKind.TWIST
    state = StateMap(station.state, policy.observation)
    buffer = ObservationBuffer(policy.observation, state, station.joint_names, needs_tcp)
    worker = PolicyWorker(artifact, station.worker)
    try:
        if moves and not worker.for_motion:
            raise BackendError("worker: this engine's answers must not move a robot; use onnxruntime")
        start(worker)
    except BaseException:
        worker.close()
        raise
    link = WorkerLink(worker)
    controller = Controller(station.settings, filter_, buffer, link, NodeTime(node), wall)
    return Loaded(artifact, station, worker, link, filter_, controller)


def start(worker: PolicyWorker) -> None:
    """Start the worker and wait until it has verified, loaded and warmed up. Raises BackendError with its reason."""
    worker.start()
    while not worker.ready:
        worker.poll()
        if not worker.alive:
            raise BackendError(f"the policy worker did not start: {worker.died_because}")
        time.sleep(0.01)
