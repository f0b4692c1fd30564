# SPDX-License-Identifier: Apache-2.0
"""What the controller tells people and the guard: status, diagnostics, feedback. Nothing measured is -1."""

from __future__ import annotations

import math
import os
from pathlib import Path

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from dropgate_interfaces.action import RunTask
from dropgate_interfaces.msg import RuntimeStatus

from dropgate_controller.assembly import Loaded
from runtime.control.state import ON_TASK, State
from runtime.telemetry import StopCause

_BAD = (State.STOPPING, State.FAULT_LATCHED)


def status(loaded: Loaded | None, stamp: Time, now_s: float, beat: int, why: str) -> RuntimeStatus:
    """The status; `why` says what refused the last configure."""
    message = RuntimeStatus(heartbeat=beat, state=State.UNCONFIGURED.value, cause=StopCause.NONE.value, text=why)
    message.header.stamp = stamp
    if loaded is None:
        return message
    controller, manifest = loaded.controller, loaded.artifact.manifest
    ages, rates = controller.buffer.ages(now_s), controller.buffer.rates()
    message.state, message.cause = controller.state.value, controller.incident.cause.value
    message.text = controller.incident.text or loaded.gatekeeper.refused
    message.motion_enabled, message.permit = loaded.station.enable_motion, controller.permission.granted
    message.armed = message.motion_enabled and (controller.state in ON_TASK or controller.state is State.ARMED)
    message.artifact_id, message.policy_id = manifest.artifact_id, manifest.policy_id
    message.tick_p99_s = number(controller.latencies.tick.p99_s)
    message.tick_max_s = number(controller.latencies.tick.max_s)
    message.scale = controller.tempo
    message.streams, message.stream_age_s = list(ages), [number(age) for age in ages.values()]
    message.stream_hz = [rates[name] for name in ages]
    message.observation_age_s = max(message.stream_age_s, default=-1.0)
    return message


def diagnostics(loaded: Loaded, stamp: Time) -> DiagnosticArray:
    """State, cause, queue and the latencies in milliseconds."""
    controller = loaded.controller
    values = {
        "state": controller.state.value,
        "cause": controller.incident.cause.value,
        "chunks": controller.settings.blend.kind.value,  # rtc: guided; without a graph for it, it is overlap
        "queue ms": f"{1000 * controller.queue_s:.0f}",
        "memory MiB": memory_mib(os.getpid()),
        "worker memory MiB": memory_mib(loaded.worker.pid),
        "recording": _recording(loaded),
        **loaded.gatekeeper.values,
    }
    for name, histogram in vars(controller.latencies).items():
        for label, value in (("p50", histogram.p50_s), ("p99", histogram.p99_s), ("max", histogram.max_s)):
            values[f"{name} {label} ms"] = f"{1000 * value:.3f}"
        values[f"{name} count"] = str(histogram.count)
    ended = loaded.recording is not None and loaded.recording.trouble
    level = DiagnosticStatus.WARN if ended else DiagnosticStatus.OK
    level = DiagnosticStatus.ERROR if controller.state in _BAD else level
    found = DiagnosticStatus(
        level=level,
        name="dropgate_controller",
        message=controller.incident.text or controller.state.value,
        hardware_id=loaded.station.robot,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
    message = DiagnosticArray(status=[found])
    message.header.stamp = stamp
    return message


def memory_mib(pid: int | None) -> str:
    """What a process has in memory now, for whoever looks for growth; empty if it cannot be known."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return ""
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / (1 << 20):.1f}"


def _recording(loaded: Loaded) -> str:
    if loaded.recording is None:
        return "none"
    return f"ended: {loaded.recording.trouble}" if loaded.recording.trouble else "on"


def feedback(loaded: Loaded, now_s: float) -> RunTask.Feedback:
    """How the task is going."""
    controller = loaded.controller
    message = RunTask.Feedback(state=controller.state.value, queue_s=controller.queue_s, scale=controller.tempo)
    if controller.task is not None:
        message.chunks, message.commands = controller.task.chunks, controller.task.commands
    message.observation_age_s = number(max(controller.buffer.ages(now_s).values(), default=math.nan))
    message.infer_s = number(controller.latencies.inference.p50_s)
    return message


def number(value: float) -> float:
    """A message field."""
    return float(value) if math.isfinite(value) else -1.0
