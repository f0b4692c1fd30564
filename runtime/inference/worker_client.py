# SPDX-License-Identifier: Apache-2.0
"""`PolicyWorker`: the controller's side of the policy process. One request in flight; nothing here blocks but `close`.

Polled by the controller's tick: no thread, a non-blocking socket, what could not be sent or read yet is kept. A worker
that is late, dead or talks nonsense is killed and stays dead until the next `start`: a late answer must never arrive
as if it were fresh.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import TracebackType

from runtime.clock import Clock, MonotonicClock
from runtime.contract.artifact import Artifact
from runtime.contract.guidance import Guidance
from runtime.errors import BackendError, WireError
from runtime.inference.messages import (
    Answer,
    Failure,
    Ready,
    answer_limits,
    pack_request,
    unpack_chunk,
    unpack_failure,
    unpack_ready,
)
from runtime.inference.preprocess import Observation
from runtime.inference.wire import Frame, FrameReader, Kind
from runtime.inference.worker_process import WorkerOptions, WorkerProcess
from runtime.telemetry import StopCause

READ_SIZE, READS_PER_POLL = 64 * 1024, 4  # an answer is a few KB: a worker that babbles must not keep the tick busy
LAST_WORDS_S = 2.0  # for a worker that hung up to end by itself, so that its exit code and text are its own
REAP_S = 5.0


@dataclass(frozen=True)
class _Asked:
    sequence: int
    stamp_s: float
    since_s: float


class PolicyWorker:
    """A policy in its own process, for one verified `artifact`. Use `start`, then `poll` at every tick, then `close`.

    Not thread-safe. Call `start` in a thread that lives as long as the worker: Linux ends the worker with the thread
    that started it. Durations are measured on `clock`, never on the stamps.
    """

    def __init__(self, artifact: Artifact, options: WorkerOptions | None = None, *, clock: Clock | None = None) -> None:
        self._artifact = artifact
        self._options = options or WorkerOptions()
        self._clock: Clock = clock or MonotonicClock()
        self._spec = artifact.manifest.policy
        self._expected = Ready.of(artifact)
        self._process: WorkerProcess | None = None
        self._reader = FrameReader(answer_limits(self._spec.action))
        self._outbox = memoryview(b"")
        self._asked: _Asked | None = None
        self._started_s = self._ended_s = 0.0
        self._sequence = 0
        self._ready = self._alive = False
        self._cause, self._reason = StopCause.NONE, ""

    @property
    def alive(self) -> bool:
        """A worker was started and, at the last poll, had not died."""
        return self._alive

    @property
    def ready(self) -> bool:
        """It lives and has loaded exactly this artifact."""
        return self._alive and self._ready

    @property
    def in_flight(self) -> int | None:
        """Sequence of the request that waits for its answer."""
        return None if self._asked is None else self._asked.sequence

    @property
    def unsent(self) -> int:
        """Bytes of the request that the socket did not take yet; the next poll goes on."""
        return len(self._outbox)

    @property
    def pid(self) -> int | None:
        """Process id of the living worker."""
        return self._process.pid if self._process is not None and self._alive else None

    @property
    def for_motion(self) -> bool:
        """False where the answers must not move a robot (see `WorkerOptions.for_motion`)."""
        return self._options.for_motion

    @property
    def cause(self) -> StopCause:
        """Why the worker is gone: WORKER_DIED or WORKER_TIMEOUT; NONE while it lives or if it was closed alive."""
        return self._cause

    @property
    def died_because(self) -> str:
        """The reason, exit code or signal, and the last lines it wrote; empty while it lives. Reads a file."""
        if not self._reason or self._process is None:
            return self._reason
        return f"{self._reason}; {self._process.how()}; it wrote: {self._process.last_words()}"

    def start(self) -> None:
        """Start the process and return at once; `ready` becomes true at a later poll.

        BackendError if one is alive, if the last one has not ended yet, or if there is nothing to start.
        """
        if self._alive:
            raise BackendError("worker: found one alive, expected none; close it before starting another")
        if self._process is not None and not self._process.gone:
            self._process.kill()
            raise BackendError(
                f"worker: found process {self._process.pid} killed but not ended yet; start again later. If it stays "
                "so, its device driver hangs"
            )
        if self._process is not None:
            self._process.close_log()
            self._process = None
        self._drop()
        self._cause, self._reason = StopCause.NONE, ""
        self._process = WorkerProcess(self._artifact.root, self._options)
        self._started_s = self._clock.now()
        self._alive = True

    def request(
        self, observation: Observation, instruction: str, stamp_s: float, guidance: Guidance | None = None
    ) -> int:
        """Ask for a chunk and return the sequence of its answer; the observation is copied. `guidance` is for a graph
        that takes it (`GraphSpec.guided`) and says what is being executed meanwhile.

        BackendError if it is not ready or another request is in flight. ObservationError if the observation does not
        fit the spec: nothing was sent then.
        """
        if not self.ready:
            state = "one that is still starting" if self._alive else f"none ({self.died_because or 'not started'})"
            raise BackendError(f"worker: found {state}, expected one that is ready")
        if self._asked is not None:
            raise BackendError(f"worker: found request {self._asked.sequence} in flight, expected none; poll first")
        sequence = self._sequence + 1
        frame = pack_request(
            sequence, stamp_s, instruction, observation, self._spec.observation, guidance, self._spec.guided
        )
        self._sequence = sequence
        self._asked = _Asked(sequence, stamp_s, self._clock.now())
        self._outbox = memoryview(frame)
        self._send()
        return sequence

    def poll(self) -> Answer | Failure | None:
        """What has arrived; never blocks, never raises for what the worker did (see `alive`, `cause`).

        An answer that is there is handed over, however long this poll was in coming: its stamp says how old it is.
        """
        process = self._process
        if process is None:
            return None
        if not self._alive:
            if not process.gone and self._clock.now() - self._ended_s > LAST_WORDS_S:
                process.kill()
            return None
        gone = process.gone  # asked before reading, so that its last words are read
        self._send()
        try:
            closed = self._receive(process)
            heard = self._hear()
        except WireError as error:
            self._end(StopCause.WORKER_DIED, f"killed because it broke the protocol: {error}")
            return None
        if gone or closed:
            doing = f"during request {self._asked.sequence}" if self._asked is not None else "while idle"
            doing = doing if self._ready else "while starting"
            self._end(StopCause.WORKER_DIED, f"the worker died {doing}", kill=False)
        else:
            self._check_time()
        return heard

    def close(self) -> None:
        """End the worker and wait for its end, a few seconds at most; more calls are harmless."""
        process, was_alive = self._process, self._alive
        self._alive = False
        self._drop()
        if process is not None:
            if not was_alive:
                process.reap(LAST_WORDS_S)
            process.kill()
            if process.reap(REAP_S):
                self._reason = self.died_because
                process.close_log()
                self._process = None

    def __enter__(self) -> PolicyWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self) -> None:
        while self._process is not None and self._outbox:
            try:
                self._outbox = self._outbox[self._process.link.send(self._outbox) :]
            except BlockingIOError:
                return
            except OSError:  # it has closed: reading says so, after what it still had to say
                self._outbox = memoryview(b"")

    def _receive(self, process: WorkerProcess) -> bool:
        """Feed the reader with what is there; True when the other side has closed."""
        for _ in range(READS_PER_POLL):
            try:
                data = process.link.recv(READ_SIZE)
            except BlockingIOError:
                return False
            except OSError:
                return True
            if not data:
                return True
            self._reader.feed(data)
        return False

    def _hear(self) -> Answer | Failure | None:
        """The one answer that may be there. WireError for anything that was not asked for."""
        heard: Answer | Failure | None = None
        while self._alive and (frame := self._reader.take()) is not None:
            if self._ready:
                heard = self._answer(frame)
            else:
                self._greet(frame)
        return heard

    def _greet(self, frame: Frame) -> None:
        if frame.kind is Kind.FAILURE:
            failure = unpack_failure(frame)
            self._end(
                StopCause.WORKER_DIED, f"the worker refused to start: {failure.error}: {failure.text}", kill=False
            )
            return
        found = unpack_ready(frame)
        if found != self._expected:
            raise WireError(f"READY frame: found {found}, expected {self._expected}: the artifact was exchanged")
        self._ready = True

    def _answer(self, frame: Frame) -> Answer | Failure:
        asked = self._asked
        if asked is None or frame.sequence != asked.sequence:
            expected = "nothing was asked" if asked is None else f"expected an answer to {asked.sequence}"
            raise WireError(f"{frame.kind.name} frame: found sequence {frame.sequence}, {expected}")
        answer: Answer | Failure
        if frame.kind is Kind.FAILURE:
            answer = unpack_failure(frame)
        else:
            answer = unpack_chunk(frame, self._spec.action)
            if answer.chunk.stamp_s != asked.stamp_s:
                found = f"found stamp_s {answer.chunk.stamp_s}, expected {asked.stamp_s}"
                raise WireError(f"CHUNK frame {frame.sequence}: {found}")
            answer = replace(answer, round_trip_s=self._clock.now() - asked.since_s)
        self._asked = None
        return answer

    def _check_time(self) -> None:
        since_s, limit_s = self._started_s, self._options.start_timeout_s
        doing = "starting"
        if self._ready:
            if self._asked is None:
                return
            since_s, limit_s = self._asked.since_s, self._options.request_timeout_s
            doing = f"request {self._asked.sequence}"
        if self._clock.now() - since_s > limit_s:
            self._end(StopCause.WORKER_TIMEOUT, f"killed because {doing} took longer than {limit_s:g} s")

    def _end(self, cause: StopCause, reason: str, *, kill: bool = True) -> None:
        """Hear no more of it and remember why; the first reason is kept. Killed unless it is about to end itself."""
        if self._process is None or self._reason:
            return
        if kill:
            self._process.kill()
        else:
            self._process.hang_up()
        self._alive, self._ended_s = False, self._clock.now()
        self._drop()
        self._cause, self._reason = cause, reason

    def _drop(self) -> None:
        self._reader = FrameReader(answer_limits(self._spec.action))
        self._asked, self._outbox, self._ready = None, memoryview(b""), False
