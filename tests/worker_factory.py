# SPDX-License-Identifier: Apache-2.0
"""Policy workers for tests: artifacts they may load, interpreters that are not what they seem, waiting for a fact."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from artifact_factory import artifact_files, image_spec, judge, onnx_bytes, policy_spec, write_draft

from runtime.contract.artifact import Artifact
from runtime.contract.conventions import FileRole, Verdict
from runtime.contract.graph import graph_for
from runtime.contract.write import ArtifactFile
from runtime.inference.worker_client import PolicyWorker

PATIENCE_S = 300.0  # for a machine that is busy with something else; nothing here waits on purpose

_HEAD = """#!{python}
import os, socket, sys, time
link = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
"""
_LIAR = """
import numpy as np
from pathlib import Path
from runtime.contract.artifact import load_manifest, Artifact
from runtime.inference.messages import *
from runtime.inference.wire import *
from runtime.contract.chunk import ActionChunk
root = Path(sys.argv[sys.argv.index("worker") + 1])
artifact = Artifact(root, *load_manifest(root))
spec = artifact.manifest.policy
reader = FrameReader(request_limits(spec.observation))
ready = Ready.of(artifact)
def asked():
    return unpack_request(receive(link, reader), spec.observation)
def chunk(stamp_s):
    return ActionChunk.of(np.zeros((spec.action.horizon, spec.action.dim)), spec.action, stamp_s)
"""


def promoted(folder: Path) -> Artifact:
    return judge(write_draft(folder / "draft"), folder / "promoted", Verdict.PROMOTE)


def with_large_images(folder: Path, size: int) -> Artifact:
    """A promoted artifact with two cameras of `size` x `size` pixels; its golden file is the small ones'."""
    spec = policy_spec()
    images = tuple(image_spec(key, height=size, width=size) for key in spec.observation.image_keys)
    seen = dataclasses.replace(spec.observation, images=images)
    large = dataclasses.replace(spec, observation=seen, graph=graph_for(seen, spec.action, spec.prompt))
    files = {**artifact_files(), "policy.onnx": ArtifactFile(FileRole.MODEL, onnx_bytes(large))}
    return judge(write_draft(folder / "draft", policy=large, files=files), folder / "promoted", Verdict.PROMOTE)


def large_observation(size: int) -> dict[str, np.ndarray]:
    image = np.arange(size * size * 3, dtype=np.uint32).astype(np.uint8).reshape(size, size, 3)
    return {"agentview": image, "wrist": image[::-1], "state": np.zeros(8)}


def impostor(folder: Path, body: str) -> str:
    """Path of an executable that is started in place of Python and does `body`; `link` is its socket."""
    return _executable(folder, _HEAD.format(python=sys.executable) + body)


def liar(folder: Path, body: str) -> str:
    """The same with the protocol at hand: `ready`, `asked()`, `chunk(stamp_s)` and what `messages` offers."""
    return impostor(folder, _LIAR + body)


def python_without(folder: Path, modules: tuple[str, ...]) -> str:
    """Path of an interpreter in which these modules cannot be imported."""
    code = f"""#!{sys.executable}
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {modules!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[sys.argv.index("runtime"):]
runpy.run_module("runtime", run_name="__main__", alter_sys=True)
"""
    return _executable(folder, code)


def _executable(folder: Path, text: str) -> str:
    path = folder / "python"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def wait_for(fact: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not fact():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for: {what}"
        time.sleep(0.002)


def ready(worker: PolicyWorker) -> PolicyWorker:
    """The same worker, started and ready."""
    worker.start()
    wait_for(lambda: worker.poll() or worker.ready or not worker.alive, "ready")
    assert worker.ready, worker.died_because
    return worker


def heard(worker: PolicyWorker):
    """The next answer or failure."""
    got = []
    wait_for(lambda: got.append(worker.poll()) or got[-1] is not None or not worker.alive, "an answer")
    assert got[-1] is not None, worker.died_because
    return got[-1]


def dead(worker: PolicyWorker) -> PolicyWorker:
    """The same worker, after it was found dead without a word."""
    got = []
    wait_for(lambda: got.append(worker.poll()) or not worker.alive, "death")
    assert not [answer for answer in got if answer is not None]
    return worker


def ended(pid: int) -> bool:
    """True when no such process runs any more; a zombie that nobody reaps has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"
