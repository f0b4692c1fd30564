# SPDX-License-Identifier: Apache-2.0
"""What runs on a machine of the Ray cluster: one simulator process. Only text and bytes go in and out.

Artifacts arrive file by file under the digest of their content, are checked against it, and are kept for the next
actor of that machine.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from compress.digests import of_path
from compress.gate.episodes import SimulatorBroken
from compress.gate.jobs import Job, WorkerSetup
from compress.gate.policies import UnusablePolicy
from compress.gate.worker import Bench


class Simulator:
    """A gate worker as a Ray actor: `settings`, then `lacks` / `take` / `keep` per artifact, `start`, `run`."""

    def __init__(self) -> None:
        self._bench: Bench | None = None
        self._arriving: Path | None = None

    def pid(self) -> int:
        """Of this process."""
        return os.getpid()

    def settings(self) -> str:
        """What must be equal on every machine of one gate, as JSON."""
        from compress.gate.environment import versions
        from compress.gate.made_with import code_digest
        from compress.sim.renderer import choose_renderer

        return json.dumps({"renderer": choose_renderer(), "versions": versions(), "code": code_digest()})

    def lacks(self, digest: str) -> bool:
        """Is the artifact with this digest still to be sent?"""
        folder = _cache() / digest
        if folder.is_dir() and of_path(folder) == digest:
            return False
        shutil.rmtree(folder, ignore_errors=True)
        self._arriving = Path(tempfile.mkdtemp(prefix=".arriving-", dir=_cache()))
        return True

    def take(self, name: str, data: bytes) -> None:
        """Appends to one file of the artifact that is arriving. ValueError for a name that leaves its folder."""
        if self._arriving is None:
            raise ValueError(f"{name!r} came without its artifact: call lacks() first")
        path = (self._arriving / name).resolve()
        if self._arriving.resolve() not in path.parents:
            raise ValueError(f"file name is {name!r}, expected one inside the artifact")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(data)

    def keep(self, digest: str) -> str:
        """The arrived artifact's folder. ValueError if it is not what the digest says."""
        folder = _cache() / digest
        if self._arriving is not None:
            arriving, self._arriving = self._arriving, None
            found = of_path(arriving)
            if found != digest:
                shutil.rmtree(arriving)
                raise ValueError(f"the artifact arrived with digest {found}, expected {digest}")
            if folder.exists():  # another actor of this machine was faster
                shutil.rmtree(arriving)
            else:
                arriving.rename(folder)
        return str(folder)

    def start(self, setup: str) -> str:
        """Builds the bench of a `WorkerSetup`; answers `ready`, `broken` or `unusable` as JSON."""
        return _said(lambda: self._start(WorkerSetup.from_json(json.loads(setup))))

    def run(self, job: str) -> str:
        """Runs a `Job`; answers `row`, `broken` or `unusable` as JSON."""
        return _said(lambda: self._run(Job.from_json(json.loads(job))))

    def _start(self, setup: WorkerSetup) -> dict[str, Any]:
        self._bench = Bench(setup)
        return {"kind": "ready"}

    def _run(self, job: Job) -> dict[str, Any]:
        if self._bench is None:
            raise SimulatorBroken("a job came before the set-up")
        return {"kind": "row", "row": self._bench.run(job).to_json()}


def _said(do: Any) -> str:
    try:
        return json.dumps(do(), allow_nan=False)
    except SimulatorBroken as error:
        return json.dumps({"kind": "broken", "text": str(error)})
    except UnusablePolicy as error:
        return json.dumps({"kind": "unusable", "text": str(error)})


def _cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"dropgate-artifacts-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ValueError(f"{folder} belongs to somebody else. Next: set TMPDIR on this machine")
    return folder
