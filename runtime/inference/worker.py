# SPDX-License-Identifier: Apache-2.0
"""The policy in its own process: `python -m runtime worker ARTIFACT --fd N` answers one client.

Started by `runtime.inference.worker_client`, which hands it a socket. It may be killed at any time and holds no
credentials. A policy that fails answers with a failure and goes on; a frame that is not ours ends the process. It
leaves when its socket closes or its parent dies, also in the middle of an inference: nobody would read the answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from runtime.clock import Clock, MonotonicClock
from runtime.errors import DropGateRuntimeError, WireError
from runtime.inference.messages import (
    Ready,
    Request,
    pack_chunk,
    pack_failure,
    pack_ready,
    request_limits,
    unpack_request,
)
from runtime.inference.policy import Policy
from runtime.inference.proven import load_proven
from runtime.inference.wire import FrameReader, receive

GRACE_S = 1.0  # for an inference that is on when the client goes
CLOSING_S = 30.0  # to free the engine once that is all there is to do; a busy machine takes its time
_WATCH_MS = 1000
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Served:
    """How many requests were answered with a chunk, and how many with a failure."""

    answered: int
    failed: int


def run_worker(
    directory: Path, fd: int, *, backend: str, threads: int | None, provider: str | None, allow_held: bool,
    prove: bool = False,
) -> Served:  # fmt: skip
    """Load, warm up, say ready, answer until the client closes. `threads` None leaves one core to the controller.

    An engine that the artifact was not proven with answers its golden samples first (`runtime.inference.proven`), with
    `prove` every engine does.
    Drafts are never admitted; held artifacts only with `allow_held`, for a robot that may not move (shadow mode).
    Raises what `Policy.load` raises, after telling the client why; WireError for a broken frame.
    """
    link = socket.socket(fileno=fd)
    link.set_inheritable(False)
    link.setblocking(True)
    closing = threading.Event()
    _leave_with(link, closing)
    try:
        policy, proof = load_proven(
            directory, backend, threads=threads, provider=provider, require_promoted=not allow_held, again=prove
        )
    except (DropGateRuntimeError, OSError) as error:
        with contextlib.suppress(OSError):  # the client may have gone; the reason is also what the process ends with
            link.sendall(pack_failure(0, error))
        raise
    if proof is not None:
        print(f"worker: {proof.samples} golden samples agree, worst {max(proof.max_abs.values()):.1e}", file=sys.stderr)
    print(f"worker: {policy.description}", file=sys.stderr, flush=True)
    with policy, link:
        served = serve(link, policy)
        closing.set()
        return served


def serve(link: socket.socket, policy: Policy, clock: Clock | None = None) -> Served:
    """Say ready, then answer one request at a time until the other side closes. WireError for a broken frame.

    Sequences must rise: an old request that comes again is not answered.
    """
    source, spec = clock or MonotonicClock(), policy.manifest.policy
    reader = FrameReader(request_limits(spec.observation, spec.guided))
    answered = failed = last = 0
    try:
        link.sendall(pack_ready(Ready.of(policy.artifact)))
        while (frame := receive(link, reader)) is not None:
            request = unpack_request(frame, spec.observation, spec.guided)
            if request.sequence <= last:
                raise WireError(f"request: found sequence {request.sequence}, expected one above {last}")
            last = request.sequence
            ok, reply = _answer(policy, request, source)
            answered, failed = answered + ok, failed + (not ok)
            link.sendall(reply)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the client left while it was being answered
    return Served(answered, failed)


def _answer(policy: Policy, request: Request, clock: Clock) -> tuple[bool, bytes]:
    started = clock.now()
    try:
        chunk = policy.infer(request.observation, request.instruction, request.stamp_s, guidance=request.guidance)
    except Exception as error:
        if not isinstance(error, DropGateRuntimeError):
            traceback.print_exc()  # a defect: the client gets its text, the log gets the place
        return False, pack_failure(request.sequence, error)
    return True, pack_chunk(request.sequence, chunk, clock.now() - started)


def _leave_with(link: socket.socket, closing: threading.Event) -> None:
    """End with the parent (the kernel's signal, and a look once a second) and with the socket's other end."""
    parent = os.getppid()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL)) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    threading.Thread(target=_watch, args=(link.fileno(), parent, closing), daemon=True).start()


def _watch(fd: int, parent: int, closing: threading.Event) -> None:
    poller = select.poll()
    poller.register(fd, 0)  # nothing but hang-up: the main thread does the reading
    while os.getppid() == parent and not poller.poll(_WATCH_MS):
        pass
    if closing.wait(GRACE_S):
        time.sleep(CLOSING_S)
    os._exit(1)
