# SPDX-License-Identifier: Apache-2.0
"""The policy in its own process: real processes, real signals, real deaths; only the clock is ours."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from artifact_factory import TASK, expected_actions, judge, observation, write_draft
from worker_factory import (
    PATIENCE_S,
    dead,
    ended,
    heard,
    impostor,
    large_observation,
    liar,
    promoted,
    python_without,
    ready,
    wait_for,
    with_large_images,
)

from runtime.__main__ import main
from runtime.backends.fake_backend import Fault, Step, parse_script
from runtime.backends.registry import create_backend
from runtime.clock import FakeClock
from runtime.contract.artifact import Artifact
from runtime.contract.conventions import Verdict
from runtime.errors import BackendError, ObservationError
from runtime.inference import worker_process
from runtime.inference.messages import Answer, Failure, answer_limits, pack_request
from runtime.inference.policy import Policy
from runtime.inference.wire import FrameReader, Kind, receive
from runtime.inference.worker_client import PolicyWorker
from runtime.inference.worker_process import WorkerOptions
from runtime.telemetry import StopCause

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc as on Linux")
TRAINING = ("torch", "transformers", "onnx", "rclpy", "compress", "mujoco", "robosuite", "libero")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return promoted(tmp_path_factory.mktemp("worker"))


def fake(artifact: Artifact, script: str = "", **options) -> PolicyWorker:
    """A worker whose engine plays `script`, on a clock that stands still."""
    backend = f"fake:{script}" if script else "fake"
    return PolicyWorker(artifact, WorkerOptions(backend=backend, **options), clock=FakeClock())


def test_answers_are_those_of_the_policy_in_process(artifact: Artifact, tmp_path: Path) -> None:
    """Also in an environment that has an engine and nothing to train with."""
    python = python_without(tmp_path, TRAINING)
    with PolicyWorker(artifact, WorkerOptions(python=python, threads=1), clock=FakeClock()) as worker:
        ready(worker)
        with Policy.load(artifact.root, threads=1) as policy:
            for seed, text in enumerate((TASK, "pick up the cube")):
                sequence = worker.request(observation(seed), text, 100.5 + seed)
                answer = heard(worker)
                assert isinstance(answer, Answer)
                own = policy.infer(observation(seed), text, 100.5 + seed)
                np.testing.assert_array_equal(answer.chunk.values, own.values)
                np.testing.assert_allclose(answer.chunk.values, expected_actions(observation(seed), text), atol=1e-5)
                assert (answer.sequence, answer.chunk.stamp_s, answer.chunk.names) == (
                    sequence,
                    100.5 + seed,
                    own.names,
                )
                assert answer.infer_s > 0.0
        assert (worker.alive, worker.in_flight, worker.died_because) == (True, None, "")


def test_round_trip_is_measured_on_the_clients_clock(artifact: Artifact) -> None:
    clock = FakeClock()
    with PolicyWorker(artifact, WorkerOptions(backend="fake"), clock=clock) as worker:
        ready(worker)
        worker.request(observation(), TASK, 5000.0)
        clock.advance(0.25)
        assert heard(worker).round_trip_s == 0.25


def test_one_request_at_a_time(artifact: Artifact) -> None:
    with fake(artifact, "stall") as worker:
        with pytest.raises(BackendError, match=r"found none \(not started\), expected one that is ready"):
            worker.request(observation(), TASK, 0.0)
        worker.start()
        with pytest.raises(BackendError, match="found one that is still starting"):
            worker.request(observation(), TASK, 0.0)
        with pytest.raises(BackendError, match="found one alive, expected none"):
            worker.start()
        wait_for(lambda: worker.poll() or worker.ready, "ready")
        assert worker.request(observation(), TASK, 0.0) == worker.in_flight == 1
        with pytest.raises(BackendError, match="found request 1 in flight, expected none"):
            worker.request(observation(), TASK, 0.0)
        assert worker.poll() is None


def test_observation_that_does_not_fit_is_never_sent(artifact: Artifact) -> None:
    with ready(fake(artifact)) as worker:
        with pytest.raises(ObservationError, match=r"observation\['state'\]\['x'\]: found nan"):
            worker.request({**observation(), "state": np.full(8, np.nan)}, TASK, 0.0)
        assert (worker.in_flight, worker.unsent) == (None, 0)
        worker.request(observation(), TASK, 0.0)
        assert isinstance(heard(worker), Answer)


def test_policy_that_fails_says_so_and_goes_on(artifact: Artifact) -> None:
    with ready(fake(artifact, "nan,raise,wrong_shape,none")) as worker:
        seen = []
        for _ in range(4):
            worker.request(observation(), TASK, 1.0)
            seen.append(heard(worker))
        assert [type(answer) for answer in seen] == [Failure, Failure, Failure, Answer]
        assert [f.error for f in seen[:3]] == ["PolicyOutputError", "BackendError", "BackendError"]
        assert "outputs[actions]: found nan" in seen[0].text
        assert [answer.sequence for answer in seen] == [1, 2, 3, 4]
        assert (worker.alive, worker.cause) == (True, StopCause.NONE)


def test_prompt_that_is_too_long_is_a_failure(artifact: Artifact) -> None:
    with ready(fake(artifact)) as worker:
        worker.request(observation(), "the " * 50, 1.0)
        assert heard(worker).error == "ObservationError"


def test_killed_in_the_middle_of_a_request(artifact: Artifact) -> None:
    with ready(fake(artifact, "stall")) as worker:
        worker.request(observation(), TASK, 1.0)
        os.kill(worker.pid, signal.SIGKILL)
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        assert worker.poll() is None
        assert (worker.alive, worker.ready, worker.in_flight, worker.pid) == (False, False, None, None)
        assert worker.cause is StopCause.WORKER_DIED
        assert worker.died_because == "the worker died during request 1; signal 9 (SIGKILL); it wrote: worker: fake"


def test_death_between_requests_is_noticed_and_only_start_revives(artifact: Artifact) -> None:
    with ready(fake(artifact)) as worker:
        worker.request(observation(), TASK, 1.0)
        heard(worker)
        os.kill(worker.pid, signal.SIGTERM)
        dead(worker)
        assert worker.died_because.startswith("the worker died while idle; ")
        assert (worker.poll(), worker.alive) == (None, False)
        with pytest.raises(BackendError, match=r"found none \(the worker died while idle; .*expected one"):
            worker.request(observation(), TASK, 1.0)
        wait_for(lambda: "SIGTERM" in worker.died_because, "the end of the process")
        ready(worker)
        assert (worker.cause, worker.died_because) == (StopCause.NONE, "")
        assert worker.request(observation(), TASK, 1.0) == 2, "sequences go on, so that no answer is mistaken"
        assert heard(worker).sequence == 2


def test_answer_given_before_death_is_handed_over(artifact: Artifact, tmp_path: Path) -> None:
    python = liar(tmp_path, "link.sendall(pack_ready(ready)); r = asked()\n"
                  "link.sendall(pack_chunk(r.sequence, chunk(r.stamp_s), 0.0)); sys.exit(3)")  # fmt: skip
    with ready(fake(artifact, python=python)) as worker:
        worker.request(observation(), TASK, 1.0)
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        assert isinstance(worker.poll(), Answer)
        assert not worker.alive
        assert worker.died_because == "the worker died while idle; exit 3; it wrote: nothing"


def test_frozen_worker_is_killed_when_its_time_is_over(artifact: Artifact) -> None:
    clock = FakeClock()
    options = WorkerOptions(backend="fake", request_timeout_s=0.5)
    with ready(PolicyWorker(artifact, options, clock=clock)) as worker:
        pid = worker.pid
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        clock.advance(1000.0)
        worker.poll()
        assert worker.alive, "no request, no time limit"
        worker.request(observation(), TASK, 1.0)
        clock.advance(0.5)
        worker.poll()
        assert worker.alive
        clock.advance(0.001)
        assert worker.poll() is None
        assert (worker.alive, worker.in_flight, worker.cause) == (False, None, StopCause.WORKER_TIMEOUT)
        assert worker.died_because.startswith("killed because request 1 took longer than 0.5 s; ")
        wait_for(lambda: ended(pid), "the kernel to end the stopped process")


def test_worker_that_hangs_up_and_stays_is_killed_later(artifact: Artifact, tmp_path: Path) -> None:
    clock = FakeClock()
    options = WorkerOptions(python=impostor(tmp_path, "link.close(); time.sleep(3600)"))
    with PolicyWorker(artifact, options, clock=clock) as worker:
        worker.start()
        pid = worker.pid
        dead(worker)
        assert worker.died_because == "the worker died while starting; it has not ended yet; it wrote: nothing"
        worker.poll()
        assert not ended(pid), "it may still say why"
        clock.advance(2.1)
        worker.poll()
        wait_for(lambda: "signal 9" in worker.died_because, "the end of the process")


def test_worker_that_never_gets_ready_is_killed(artifact: Artifact, tmp_path: Path) -> None:
    clock = FakeClock()
    options = WorkerOptions(python=impostor(tmp_path, "time.sleep(3600)"), start_timeout_s=30.0)
    with PolicyWorker(artifact, options, clock=clock) as worker:
        worker.start()
        clock.advance(30.0)
        worker.poll()
        assert worker.alive
        clock.advance(0.1)
        worker.poll()
        assert (worker.alive, worker.cause) == (False, StopCause.WORKER_TIMEOUT)
        assert worker.died_because.startswith("killed because starting took longer than 30 s; ")


LIES = {
    "garbage": ("link.sendall(os.urandom(4096)); time.sleep(3600)", "does not speak this protocol"),
    "babble": ("while True: link.sendall(pack_failure(1, ValueError('la')))", "found sequence 1, nothing was asked"),
    "other artifact": ("link.sendall(pack_ready(Ready('0' * 64, ready.policy_id, ready.manifest_sha256)))\n"
                       "time.sleep(3600)", "READY frame: found .*: the artifact was exchanged"),
    "early answer": ("link.sendall(pack_chunk(1, chunk(0.0), 0.0)); time.sleep(3600)", "found CHUNK, expected READY"),
    "ready twice": ("link.sendall(2 * pack_ready(ready)); time.sleep(3600)", "READY frame: found sequence 0, nothing"),
    "cut off": ("link.sendall(pack_ready(ready)[:-1]); sys.exit(1)", "the worker died while starting; exit 1"),
    "silent exit": ("print('no such engine', file=sys.stderr); sys.exit(7)",
                    "the worker died while starting; exit 7; it wrote: no such engine"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_worker_that_breaks_the_protocol_is_killed(artifact: Artifact, tmp_path: Path, name: str) -> None:
    body, message = LIES[name]
    prefix = "link.sendall(pack_ready(ready))\n" if name == "babble" else ""
    make = impostor if name == "silent exit" else liar
    with fake(artifact, python=make(tmp_path, prefix + body)) as worker:
        worker.start()
        dead(worker)
        assert worker.cause is StopCause.WORKER_DIED
        wait_for(lambda: "not ended" not in worker.died_because, "the end of the process")
        assert re.search(message, worker.died_because), worker.died_because


FALSE_ANSWERS = {
    "other sequence": ("pack_chunk(r.sequence + 1, chunk(r.stamp_s), 0.0)", "found sequence 2, expected an answer"),
    "old sequence": ("pack_failure(0, ValueError('late'))", "found sequence 0, expected an answer to 1"),
    "other stamp": ("pack_chunk(r.sequence, chunk(r.stamp_s + 0.05), 0.0)", "found stamp_s 1.05, expected 1.0"),
    "two answers": ("2 * pack_chunk(r.sequence, chunk(r.stamp_s), 0.0)", "found sequence 1, nothing was asked"),
    "damaged": ("pack_chunk(r.sequence, chunk(r.stamp_s), 0.0)[:-1] + b'x'", "its payload is damaged"),
    "nan": ("pack_frame(Kind.CHUNK, 1, [pack_chunk(1, chunk(1.0), 0.0)[28:-4], b'\\x00\\x00\\xc0\\x7f'])",
            "found nan at .7, 6., expected finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", FALSE_ANSWERS)
def test_answer_that_was_not_asked_for_is_never_handed_over(artifact: Artifact, tmp_path: Path, name: str) -> None:
    answer, message = FALSE_ANSWERS[name]
    body = f"link.sendall(pack_ready(ready)); r = asked(); link.sendall({answer}); time.sleep(3600)"
    with ready(fake(artifact, python=liar(tmp_path, body))) as worker:
        worker.request(observation(), TASK, 1.0)
        dead(worker)
        assert worker.cause is StopCause.WORKER_DIED
        assert re.search(f"killed because it broke the protocol: .*{message}", worker.died_because), worker.died_because


def test_large_request_never_blocks_and_is_sent_by_later_polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cameras of 280 x 280: 470 400 bytes, into a socket that takes a few thousand and a worker that is frozen."""
    monkeypatch.setattr(worker_process, "SEND_BUFFER", 4096)
    with ready(fake(with_large_images(tmp_path, 280))) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WNOWAIT)
        worker.request(large_observation(280), TASK, 1.0)
        unsent = worker.unsent
        assert unsent > 400_000
        assert worker.poll() is None
        assert worker.unsent == unsent
        os.kill(worker.pid, signal.SIGCONT)
        assert heard(worker).sequence == 1
        assert worker.unsent == 0


def test_large_images_arrive_unchanged(tmp_path: Path) -> None:
    artifact, sample = with_large_images(tmp_path, 280), large_observation(280)
    options = WorkerOptions(threads=1)
    with ready(PolicyWorker(artifact, options, clock=FakeClock())) as worker, Policy.load(artifact.root) as policy:
        worker.request(sample, TASK, 1.0)
        np.testing.assert_allclose(heard(worker).chunk.values, policy.infer(sample, TASK, 1.0).values, atol=1e-6)


def test_draft_is_never_loaded_and_held_only_in_shadow(artifact: Artifact, tmp_path: Path) -> None:
    draft = write_draft(tmp_path / "draft")
    with fake(draft, allow_held=True) as worker:
        worker.start()
        dead(worker)
        assert worker.cause is StopCause.WORKER_DIED
        assert worker.died_because.startswith("the worker refused to start: GateRefusedError: gate: found no verdict")
    held = judge(draft, tmp_path / "held", Verdict.HOLD, "3 of 20 episodes")
    with fake(held) as worker:
        worker.start()
        assert "GateRefusedError: gate: found verdict 'hold' (3 of 20 episodes)" in dead(worker).died_because
    with ready(fake(held, allow_held=True)) as worker:
        assert not worker.for_motion


def test_artifact_changed_after_verification_is_refused(tmp_path: Path) -> None:
    artifact = promoted(tmp_path)
    (artifact.root / "policy.onnx").write_bytes(b"another policy")
    with fake(artifact) as worker:
        worker.start()
        assert "the worker refused to start: ArtifactError: " in dead(worker).died_because


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, True), ({"backend": "fake"}, False), ({"backend": "fake:nan"}, False), ({"allow_held": True}, False)],
)
def test_only_a_promoted_policy_on_an_engine_is_for_motion(artifact: Artifact, options: dict, expected: bool) -> None:
    assert PolicyWorker(artifact, WorkerOptions(**options)).for_motion is expected


def test_interrupt_is_the_controllers(artifact: Artifact) -> None:
    with ready(fake(artifact)) as worker:
        os.kill(worker.pid, signal.SIGINT)
        worker.request(observation(), TASK, 1.0)
        assert isinstance(heard(worker), Answer)


def test_close_ends_the_process_and_may_be_repeated(artifact: Artifact) -> None:
    worker = ready(fake(artifact, "stall"))
    pid = worker.pid
    worker.request(observation(), TASK, 1.0)
    worker.close()
    worker.close()
    assert ended(pid)
    assert (worker.alive, worker.in_flight, worker.poll()) == (False, None, None)
    assert (worker.cause, worker.died_because) == (StopCause.NONE, "")


def test_reason_of_death_survives_close(artifact: Artifact, tmp_path: Path) -> None:
    worker = fake(artifact, python=impostor(tmp_path, "sys.exit('no such device')"))
    worker.start()
    dead(worker)
    worker.close()
    assert worker.died_because == "the worker died while starting; exit 1; it wrote: no such device"
    assert worker.cause is StopCause.WORKER_DIED


def test_log_is_appended_and_only_the_last_life_is_quoted(artifact: Artifact, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "worker.log"
    python = impostor(tmp_path, "sys.exit(f'life {os.getpid()}')")
    with fake(artifact, python=python, log=log) as worker:
        lives = []
        for _ in range(2):
            worker.start()
            lives.append(f"life {worker.pid}")
            dead(worker)
            wait_for(lambda: f"exit 1; it wrote: {lives[-1]}" in worker.died_because, "its last words")
        assert lives[0] not in worker.died_because
    assert log.read_text().split("\n") == [*lives, ""]


def test_what_cannot_be_started_is_said_at_once(artifact: Artifact, tmp_path: Path) -> None:
    worker = fake(artifact, python=str(tmp_path / "no_python"))
    with pytest.raises(BackendError, match=r"found no executable '.*no_python', expected a Python with dropgate"):
        worker.start()
    assert (worker.alive, worker.died_because) == (False, "")
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match=r"worker log .*; name a file that can be written"):
        fake(artifact, log=tmp_path / "file" / "worker.log").start()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_timeout_s": 0.0}, "start_timeout_s: found 0.0, expected a finite number of seconds above 0"),
        ({"request_timeout_s": float("nan")}, "request_timeout_s: found nan"),
        ({"request_timeout_s": float("inf")}, "request_timeout_s: found inf"),
        ({"threads": 0}, "threads: found 0, expected at least 1"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        WorkerOptions(**options)


def test_other_interpreter_does_not_get_our_module_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/opt/ros/jazzy/lib/python3.12/site-packages")
    assert "PYTHONPATH" not in WorkerOptions(python="/usr/bin/python3").environment()
    assert WorkerOptions().environment()["OMP_NUM_THREADS"] == "1"


def started(artifact: Artifact, *arguments: str) -> tuple[subprocess.Popen[str], socket.socket]:
    """A worker that answers the test itself, without `PolicyWorker`."""
    here, there = socket.socketpair()
    here.settimeout(PATIENCE_S)
    command = [sys.executable, "-m", "runtime", "worker", str(artifact.root), "--fd", str(there.fileno()), *arguments]
    with there:
        process = subprocess.Popen(command, pass_fds=(there.fileno(),), stderr=subprocess.PIPE, text=True)
    return process, here


def ask(link: socket.socket, artifact: Artifact, sequence: int) -> None:
    link.sendall(pack_request(sequence, 1.0, TASK, observation(), artifact.manifest.policy.observation))


BROKEN_FRAMES = {
    "noise": (lambda frame: b"GET / HTTP/1.1\r\n" + bytes(64), "does not speak this protocol"),
    "flipped": (lambda frame: frame[:100] + bytes([frame[100] ^ 1]) + frame[101:], "its payload is damaged"),
    "cut": (lambda frame: frame[:-1], "the other side closed after"),
    "again": (lambda frame: frame + frame, "found sequence 1, expected one above 1"),
}


@pytest.mark.parametrize("name", BROKEN_FRAMES)
def test_broken_frame_ends_the_worker(artifact: Artifact, name: str) -> None:
    spoil, message = BROKEN_FRAMES[name]
    process, link = started(artifact, "--backend", "fake")
    with link, process:
        frame = pack_request(1, 1.0, TASK, observation(), artifact.manifest.policy.observation)
        link.sendall(spoil(frame))
        link.shutdown(socket.SHUT_WR)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert said.startswith("worker: fake\nruntime worker: ")
    assert message in said
    assert said.count("\n") == 2


def test_worker_leaves_when_its_client_closes(artifact: Artifact) -> None:
    process, link = started(artifact, "--backend", "fake")
    with process:
        reader = FrameReader(answer_limits(artifact.manifest.policy.action))
        assert receive(link, reader).kind is Kind.READY
        link.close()
        assert process.wait(PATIENCE_S) == 0


def test_worker_leaves_when_its_client_closes_during_an_inference(artifact: Artifact) -> None:
    process, link = started(artifact, "--backend", "fake:stall")
    with process:
        reader = FrameReader(answer_limits(artifact.manifest.policy.action))
        assert receive(link, reader).kind is Kind.READY
        ask(link, artifact, 1)
        wait_for(lambda: unread(link) == 0, "the worker to take the request")
        link.close()
        assert process.wait(PATIENCE_S) == 1


def unread(link: socket.socket) -> int:
    """Bytes that were sent and not read by the other side (SIOCOUTQ)."""
    return struct.unpack("i", fcntl.ioctl(link, 0x5411, bytes(4)))[0]


CONTROLLER = """
import sys, time
from runtime.contract.artifact import read_artifact
from runtime.inference.worker_client import PolicyWorker, WorkerOptions
sys.path.append(sys.argv[2])
from artifact_factory import TASK, observation
worker = PolicyWorker(read_artifact(sys.argv[1]), WorkerOptions(backend="fake:stall"))
worker.start()
while not worker.ready:
    worker.poll()
    time.sleep(0.002)
worker.request(observation(), TASK, 1.0)
print(worker.pid, flush=True)
time.sleep(3600)
"""


def test_worker_leaves_when_the_controller_is_killed(artifact: Artifact) -> None:
    command = [sys.executable, "-c", CONTROLLER, str(artifact.root), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as controller:
        pid = int(controller.stdout.readline())
        assert not ended(pid)
        controller.kill()
        controller.wait(PATIENCE_S)
        wait_for(lambda: ended(pid), "the worker to leave")


def test_command_line_without_a_socket_is_refused(artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["worker", str(artifact.root)])
    assert stopped.value.code == 2
    before = signal.getsignal(signal.SIGINT)
    try:
        with open(os.devnull) as no_socket:
            assert main(["worker", str(artifact.root), "--fd", str(no_socket.fileno())]) == 1
    finally:
        signal.signal(signal.SIGINT, before)
    assert "runtime worker: " in capsys.readouterr().err


def test_fault_script_is_read_from_the_backends_name() -> None:
    expected = (Step(), Step(0.0, Fault.NAN), Step(0.25), Step(0.5, Fault.RAISE), Step(0.0, Fault.STALL))
    assert parse_script("none,nan, 0.25,raise@0.5,stall") == expected
    assert parse_script("") == ()


@pytest.mark.parametrize("script", ["nothing", "nan,,nan", "-1", "inf", "raise@nan", "0.1@0.2", "raise@x"])
def test_fault_script_that_means_nothing_is_refused(script: str) -> None:
    with pytest.raises(BackendError, match="fake script: found"):
        create_backend(f"fake:{script}")


def test_real_engine_takes_no_script() -> None:
    with pytest.raises(BackendError, match="onnxruntime option: found 'nan', expected each of"):
        create_backend("onnxruntime:nan")
