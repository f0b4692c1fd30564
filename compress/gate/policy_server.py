# SPDX-License-Identifier: Apache-2.0
"""`compress gate serve`: one process holds both policies and answers the simulators of this machine.

A Unix socket per arm, `candidate.sock` and `baseline.sock`, in a folder that only its owner may enter; the frames are
those between the robot's controller and its policy worker (`runtime.inference.messages`). A server may be killed and
started again at any time: simulators ask once more.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from compress.atomic import write_json
from compress.gate.answers import Answers, open_answers
from runtime.errors import DropGateRuntimeError
from runtime.inference.messages import (
    Ready,
    pack_chunk,
    pack_failure,
    pack_ready,
    request_limits,
    unpack_request,
)
from runtime.inference.wire import FrameReader, receive

SERVER = "server.json"
MAX_PATH = 100  # bytes of a socket's path; the system's limit is 107
BACKLOG = 64


class CannotServe(RuntimeError):
    """The sockets cannot be opened."""


def socket_of(folder: Path, arm: str) -> Path:
    """Where the policy of an arm answers."""
    return folder / f"{arm}.sock"


class PolicyServer:
    """Loads the artifacts, then answers until `close`; or `forever`."""

    def __init__(self, folder: Path, artifacts: Mapping[str, str], batch: int = 1) -> None:
        _own(folder)
        for arm in artifacts:
            _claim(socket_of(folder, arm))
        self._answers = {arm: open_answers(path, batch) for arm, path in artifacts.items()}
        write_json(folder / SERVER, {"batch": batch, "pid": os.getpid()})
        self._listeners = [self._listen(socket_of(folder, arm), answers) for arm, answers in self._answers.items()]

    def forever(self) -> None:
        """Returns when the process is told to end."""
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        self.close()

    def close(self) -> None:
        """No more answers."""
        for listener in self._listeners:
            Path(listener.getsockname()).unlink(missing_ok=True)
            listener.close()
        for answers in self._answers.values():
            answers.close()

    def _listen(self, path: Path, answers: Answers) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(BACKLOG)
        threading.Thread(target=_accept, args=(listener, answers), daemon=True).start()
        return listener


def _own(folder: Path) -> None:
    """Only its owner may ask: whoever can connect could keep the server busy."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise CannotServe(
            f"{folder} has mode {found.st_mode & 0o777:o} and owner {found.st_uid}, expected 700 and {os.getuid()}. "
            "Next: another --socket folder; it is made if it is missing"
        )


def _claim(path: Path) -> None:
    """Room for a socket: a dead server's is removed, a living one's is not."""
    if len(str(path).encode()) > MAX_PATH:
        raise CannotServe(
            f"{path} is too long for a socket ({MAX_PATH} bytes at most). Next: a shorter --socket folder"
        )
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise CannotServe(f"{path} is served by another process. Next: end it, or another --socket folder")


def _accept(listener: socket.socket, answers: Answers) -> None:
    while True:
        try:
            link, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(link, answers), daemon=True).start()


def _serve(link: socket.socket, answers: Answers) -> None:
    """One simulator until it leaves; what it asks wrongly is answered with a failure, as in process."""
    spec = answers.artifact.manifest.policy
    reader = FrameReader(request_limits(spec.observation))
    with link, contextlib.suppress(OSError, DropGateRuntimeError):  # a stream that is not ours is closed
        link.sendall(pack_ready(Ready.of(answers.artifact)))
        while (frame := receive(link, reader)) is not None:
            request = unpack_request(frame, spec.observation)
            try:
                chunk, took = answers.ask(request)
            except Exception as error:
                link.sendall(pack_failure(request.sequence, error))
            else:
                link.sendall(pack_chunk(request.sequence, chunk, took))


if __name__ == "__main__":
    from compress.gate.worker import end_with

    asked = json.loads(sys.argv[1])
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    PolicyServer(Path(asked["folder"]), asked["artifacts"], asked["batch"]).forever()
