# SPDX-License-Identifier: Apache-2.0
"""The simulator's side of `compress gate serve`: looks like a policy, asks the server.

A server that is gone says nothing about a policy, so it is never a failed episode: the question is asked again until
`patience_s` is over, and then the gate ends with PolicyServerGone. Asking again is harmless: an answer depends on the
question alone.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from compress.gate.policies import UnusablePolicy
from compress.gate.policy_server import SERVER
from runtime.contract.chunk import ActionChunk
from runtime.contract.manifest import Manifest
from runtime.errors import WireError
from runtime.inference.messages import answer_limits, pack_request, unpack_chunk, unpack_failure, unpack_ready
from runtime.inference.wire import Frame, FrameReader, Kind, receive

T = TypeVar("T")
PATIENCE_S = 60.0
RETRY_S = 0.2


def batch_of(folder: Path) -> int:
    """How many questions at a time the server in `folder` answers. PolicyServerGone if none was started there."""
    try:
        return int(json.loads((folder / SERVER).read_text())["batch"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyServerGone(f"{folder / SERVER}: {error}. Next: compress gate serve --socket {folder}") from error


class PolicyServerGone(UnusablePolicy):
    """Nobody answers any more: the episode is neither a success nor a failure."""


class RemoteFailure(RuntimeError):
    """The policy raised, in the server: a failure of the episode, as it would be in process."""


class ServedPolicy:
    """Asks the server at `path`: it must hold the artifact of `manifest` and answer `batch` questions at a time."""

    def __init__(self, path: str, manifest: str, patience_s: float = PATIENCE_S, batch: int = 1) -> None:
        data = Path(manifest).read_bytes()
        self._path, self._patience_s, self._batch, self._sequence = path, patience_s, batch, 0
        self._digest, self._spec = hashlib.sha256(data).hexdigest(), Manifest.from_json(data).policy
        self._link: socket.socket | None = None
        self._reader = FrameReader({})
        self._patiently(self._connect)

    def infer(self, observation: Mapping[str, np.ndarray], instruction: str, stamp_s: float) -> ActionChunk:
        """The server's answer. Raises RemoteFailure, ObservationError, PolicyServerGone."""
        self._sequence += 1
        data = pack_request(self._sequence, stamp_s, instruction, observation, self._spec.observation)
        return self._patiently(lambda: self._ask(data))

    def close(self) -> None:
        """More calls are harmless."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _patiently(self, what: Callable[[], T]) -> T:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return what()
            except (OSError, WireError) as error:
                self.close()
                if time.monotonic() >= deadline:
                    raise PolicyServerGone(
                        f"no policy server answers at {self._path} for {self._patience_s:g} s "
                        f"({type(error).__name__}: {error}). Next: compress gate serve, then the same command again: "
                        "finished episodes are kept"
                    ) from error
                time.sleep(RETRY_S)

    def _connect(self) -> socket.socket:
        if self._link is not None:
            return self._link
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(self._patience_s)
            link.connect(self._path)
            self._reader = FrameReader(answer_limits(self._spec.action))
            ready = unpack_ready(self._next(link))
        except BaseException:
            link.close()
            raise
        if ready.manifest_sha256 != self._digest:
            link.close()
            raise PolicyServerGone(
                f"{self._path} serves policy {ready.policy_id} (manifest {ready.manifest_sha256[:12]}), expected "
                f"manifest {self._digest[:12]}. Next: serve the artifacts that this gate compares"
            )
        found = batch_of(Path(self._path).parent)
        if found != self._batch:
            link.close()
            raise PolicyServerGone(f"{self._path} answers {found} questions at a time, expected {self._batch}")
        self._link = link
        return link

    def _ask(self, data: bytes) -> ActionChunk:
        link = self._connect()
        link.sendall(data)
        frame = self._next(link)
        if frame.sequence != self._sequence:
            raise WireError(f"found the answer to question {frame.sequence}, expected {self._sequence}")
        if frame.kind is Kind.FAILURE:
            failure = unpack_failure(frame)
            raise RemoteFailure(f"{failure.error}: {failure.text}")
        return unpack_chunk(frame, self._spec.action).chunk

    def _next(self, link: socket.socket) -> Frame:
        frame = receive(link, self._reader)
        if frame is None:
            raise WireError("the server closed the connection")
        return frame
