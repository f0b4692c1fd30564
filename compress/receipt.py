# SPDX-License-Identifier: Apache-2.0
"""What one stage leaves behind to prove itself: `receipt.json` for machines, `receipt.md` for people, same numbers."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from compress import digests
from compress.atomic import write_atomic, write_json
from compress.disk import human

RECEIPT, RECEIPT_MD = "receipt.json", "receipt.md"
PACKAGES = ("dropgate", "numpy", "torch", "transformers", "onnx", "onnxruntime", "mujoco", "hf-libero")


@dataclass(frozen=True)
class OutputFile:
    """One file of a stage: path relative to the stage folder (absolute if it lies elsewhere), bytes, sha256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Receipt:
    """One finished stage.

    Attributes:
        stage: its name.
        key: sha256 over settings, inputs and code version; the same key means the same result.
        settings: the part of the recipe that decided it.
        inputs: name -> digest of what it read.
        outputs: every file it promises.
        identity: digest that later stages take for this stage's result (may ignore clock times in files).
        facts: small numbers for people and for `--json`.
        seconds: wall time of the stage [s].
        versions: package -> version, with python and the commit where known.
    """

    stage: str
    key: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: tuple[OutputFile, ...]
    identity: str
    facts: Mapping[str, Any]
    seconds: float
    versions: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write both forms; the JSON comes last because its presence means `finished`."""
        text = self.to_markdown().encode()
        write_atomic(folder / RECEIPT_MD, lambda stream: stream.write(text))
        plain = {**vars(self), "outputs": [vars(item) for item in self.outputs]}
        write_json(folder / RECEIPT, {key: dict(v) if isinstance(v, Mapping) else v for key, v in plain.items()})

    @classmethod
    def read(cls, folder: Path) -> Receipt | None:
        """The receipt in `folder`, or None if there is none that can be read."""
        try:
            data = json.loads((folder / RECEIPT).read_text())
            return cls(**{**data, "outputs": tuple(OutputFile(**item) for item in data["outputs"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def damage(self, folder: Path) -> list[str]:
        """Outputs that are no longer what they were: `missing NAME`, `changed NAME`."""
        found = []
        for item in self.outputs:
            path = folder / item.path  # an absolute item.path stays as it is
            if not path.is_file():
                found.append(f"missing {item.path}")
            elif path.stat().st_size != item.size or digests.of_file(path) != item.sha256:
                found.append(f"changed {item.path}")
        return found

    def to_markdown(self) -> str:
        """For people."""
        lines = [f"# Receipt: {self.stage}", "", f"- key `{self.key}`", f"- {self.seconds:.1f} s"]
        lines += [f"- {name} {version}" for name, version in sorted(self.versions.items())]
        for title, table in (("Result", self.facts), ("Settings", self.settings), ("Inputs", self.inputs)):
            if table:
                lines += ["", f"## {title}", "", *(f"- {key}: `{_short(value)}`" for key, value in table.items())]
        lines += ["", "## Outputs", "", "| file | size | sha256 |", "|---|---|---|"]
        lines += [f"| {item.path} | {human(item.size)} | `{item.sha256}` |" for item in self.outputs]
        return "\n".join(lines) + "\n"


def outputs_of(folder: Path, promised: Sequence[Path]) -> tuple[OutputFile, ...]:
    """Size and digest of every promised file, folders opened up.

    Raises:
        FileNotFoundError: a promised output was not written.
    """
    found = []
    for path in promised:
        if not path.exists():
            raise FileNotFoundError(f"{path}: the stage promised this output and did not write it")
        for file in digests.files_under(path):
            name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file.resolve())
            found.append(OutputFile(name, file.stat().st_size, digests.of_file(file)))
    return tuple(found)


def version() -> str:
    """DropGate's own version; `0+source` when it runs from a folder that was never installed."""
    try:
        return metadata.version("dropgate")
    except metadata.PackageNotFoundError:
        return "0+source"


def versions() -> dict[str, str]:
    """Python, the packages that matter, and the commit where the code lies in a git work tree."""
    found = {"python": platform.python_version(), "dropgate": version()}
    for name in PACKAGES[1:]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    commit = _commit(Path(__file__).resolve().parent.parent)
    return {**found, "commit": commit} if commit else found


def _commit(root: Path) -> str:
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 160 else text[:157] + "..."
