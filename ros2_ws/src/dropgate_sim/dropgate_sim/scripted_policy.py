# SPDX-License-Identifier: Apache-2.0
"""A policy worker that does what a script says: the controller's worker link, wire and checks are real, it is not.

Started in the place of an interpreter (`worker.python`, see `write_launcher`), because the answers of an engine without
a model must not move a robot: this one may, since it is only ever given a simulated arm. The script is a file with one
word (MODES) and perhaps a number, read at every request:

sweep: every joint goes to and fro at SPEED_RAD_S from where it was seen. nan: a number is none. oscillate: rows jump
to and fro. far: begins far from the arm. outside: leaves the joints' range. late SECONDS: the sweep, that much later.
stale: the answer names an older observation. raise: a failure. garbage: bytes that are no frame. silence: none.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.contract.artifact import Artifact, load_manifest
from runtime.contract.chunk import ActionChunk
from runtime.contract.spec import ObservationSpec
from runtime.errors import BackendError
from runtime.inference.messages import (
    Ready,
    Request,
    pack_chunk,
    pack_failure,
    pack_ready,
    request_limits,
    unpack_request,
)
from runtime.inference.wire import FrameReader, Kind, pack_frame, receive

MODES = ("sweep", "nan", "oscillate", "far", "outside", "late", "stale", "raise", "garbage", "silence", "leak")
LEAK: list[np.ndarray] = []
LEAK_BYTES = 8 << 20
SPEED_RAD_S, AMPLITUDE_RAD = 0.3, 0.35
SHAPE = np.array([1.0, 0.15, -0.2, 0.4, -0.4, 0.8, 0.5])  # of the sweep, per joint


class Sweep:
    """To and fro around `home` (n,) [rad]; without one, around where the first observation was. A worker that is
    started again in the middle of a sweep must be given it, or the arm wanders off from one start to the next."""

    def __init__(self, home: np.ndarray | None = None) -> None:
        self._home = home
        self._side = 1.0

    def rows(self, joints: np.ndarray, horizon: int, dt_s: float) -> np.ndarray:
        """(horizon, n) [rad], the first one `dt_s` after the observation."""
        if self._home is None:
            self._home = joints
        shape = SHAPE[: len(joints)]
        here = float(joints[0] - self._home[0])
        if here * self._side > AMPLITUDE_RAD - 0.05:
            self._side = -self._side
        ahead = SPEED_RAD_S * dt_s * (np.arange(horizon) + 1.0)
        way = np.clip(here + self._side * ahead, -AMPLITUDE_RAD, AMPLITUDE_RAD) - here
        return joints + way[:, None] * shape


def answer(request: Request, artifact: Artifact, script: Path, sweep: Sweep) -> bytes:
    """The bytes to send; empty for silence."""
    spec = artifact.manifest.policy
    word, _, number = script.read_text(encoding="ascii").strip().partition(" ")
    joints = np.asarray(request.observation[spec.observation.state.key])[: len(spec.action.names)]
    rows = sweep.rows(joints, spec.action.horizon, spec.action.dt_s)
    stamp_s, sequence = request.stamp_s, request.sequence
    if word == "late":
        time.sleep(float(number))
    elif word == "leak":
        LEAK.append(np.ones(LEAK_BYTES, np.uint8))
    elif word == "silence":
        return b""
    elif word == "garbage":
        return b"\x00\xff no frame at all \xff" * 8
    elif word == "raise":
        return pack_failure(sequence, BackendError("scripted failure"))
    elif word == "stale":
        stamp_s -= 5.0
    elif word == "far":
        rows = rows + 1.0
    elif word == "outside":
        rows = rows + np.linspace(0.0, 12.0, len(rows))[:, None]
    elif word == "oscillate":
        rows = rows + 0.5 * np.where(np.arange(len(rows)) % 2, 1.0, -1.0)[:, None]
    good = pack_chunk(sequence, ActionChunk.of(spec.action.to_command(rows), spec.action, stamp_s), 0.001)
    return _with_nan(good) if word == "nan" else good


def home_beside(script: Path) -> np.ndarray | None:
    """The pose in the file `home` beside the script, if there is one."""
    file = script.with_name("home")
    return np.array(file.read_text(encoding="ascii").split(), dtype=np.float64) if file.is_file() else None


def serve(link: socket.socket, artifact: Artifact, script: Path) -> None:
    """Until the controller hangs up."""
    spec: ObservationSpec = artifact.manifest.policy.observation
    reader, sweep = FrameReader(request_limits(spec)), Sweep(home_beside(script))
    link.sendall(pack_ready(Ready.of(artifact)))
    while (frame := receive(link, reader)) is not None:
        link.sendall(answer(unpack_request(frame, spec), artifact, script, sweep))


def write_launcher(path: Path, script: Path) -> Path:
    """An executable that a controller can be given as `worker.python`; `path` must not exist."""
    paths = [entry or os.getcwd() for entry in sys.path]
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = {paths!r}\n"
        f"from dropgate_sim.scripted_policy import main\nsys.exit(main(sys.argv, {str(script)!r}))\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


def main(arguments: Sequence[str], script: str) -> int:
    """`... worker ARTIFACT --fd N ...`, as `runtime.inference.worker_process` starts a worker."""
    given = list(arguments)
    root = Path(given[given.index("worker") + 1])
    link = socket.socket(fileno=int(given[given.index("--fd") + 1]))
    link.setblocking(True)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the controller has gone
        serve(link, Artifact(root, *load_manifest(root)), Path(script))
    return 0


def _with_nan(frame: bytes) -> bytes:
    """The last number of a chunk frame replaced; a checksum, if the wire has one, stays right."""
    from runtime.inference import wire

    parsed = wire.unpack_frame(frame, {Kind.CHUNK: len(frame)})
    return pack_frame(Kind.CHUNK, parsed.sequence, [bytes(parsed.payload[:-4]), np.float32(np.nan).tobytes()])
