# SPDX-License-Identifier: Apache-2.0
"""The folder of one run: a folder and a receipt per stage, and the rule of what has to be done again.

A stage is done if its receipt carries the key that its present settings, inputs and code version give, and its files
are unchanged. Otherwise it is done again: from the start if anything it depends on changed or a file was damaged, from
where it stopped if it was interrupted (its `work` folder, where training and the gate keep their own progress).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress import digests
from compress.atomic import write_atomic, write_json
from compress.receipt import RECEIPT, RECEIPT_MD, Receipt, outputs_of, version, versions

STARTED, WORK, RECIPE = "started.json", "work", "recipe.yaml"
NOT_FINAL = "not final"


@dataclass(frozen=True)
class Result:
    """What a stage hands back.

    Attributes:
        outputs: files and folders it promises, below its folder or elsewhere.
        facts: small JSON-ready numbers worth showing.
        identity: digest of the result for later stages; empty means the digest of the outputs.
        final: false if the same run may end otherwise another day (no simulator here): it is tried again.
    """

    outputs: Sequence[Path]
    facts: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""
    final: bool = True


@dataclass(frozen=True)
class StageKey:
    """Everything that decides a stage's result."""

    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    def digest(self) -> str:
        """sha256 over the stage's name, settings, inputs and DropGate's version."""
        return digests.of_value([self.stage, dict(self.settings), dict(self.inputs), version()])


@dataclass(frozen=True)
class RunDir:
    """A run folder at `root`."""

    root: Path

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self.root / name

    def work(self, name: str) -> Path:
        """Where a stage keeps what an interrupted attempt can take up again; removed once the stage is done."""
        return self.stage(name) / WORK

    def receipt(self, name: str) -> Receipt | None:
        """The receipt of a stage, if it was finished."""
        return Receipt.read(self.stage(name))

    def why_not_done(self, key: StageKey) -> str:
        """Empty if the stage is done and intact; otherwise the reason to do it."""
        receipt = self.receipt(key.stage)
        if receipt is None:
            return "resumed" if self._started(key.stage) == key.digest() else "not done yet"
        if receipt.key == NOT_FINAL:
            return "not final last time"
        if receipt.key != key.digest():
            return _what_changed(receipt, key)
        damage = receipt.damage(self.stage(key.stage))
        return f"damaged output: {', '.join(damage)}" if damage else ""

    def begin(self, key: StageKey, fresh: bool) -> Path:
        """Prepare the stage's folder; the `work` of an interrupted attempt with the same key stays unless `fresh`.

        Returns:
            The stage's folder, without a receipt.
        """
        folder = self.stage(key.stage)
        old = self.receipt(key.stage)
        resumable = not fresh and (old is None or old.key == NOT_FINAL) and self._started(key.stage) == key.digest()
        for name in (RECEIPT, RECEIPT_MD):
            (folder / name).unlink(missing_ok=True)
        if folder.exists():
            _clear(folder, keep={STARTED, WORK} if resumable else set())
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / STARTED, {"key": key.digest(), "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        (folder / WORK).mkdir(exist_ok=True)
        return folder

    def finish(self, key: StageKey, result: Result, seconds: float) -> Receipt:
        """Write the receipt, then remove what only a resumption would have needed."""
        folder = self.stage(key.stage)
        outputs = outputs_of(folder, result.outputs)
        identity = result.identity or digests.of_value([[item.path, item.sha256] for item in outputs])
        receipt = Receipt(
            stage=key.stage,
            key=key.digest() if result.final else NOT_FINAL,
            settings=key.settings,
            inputs=key.inputs,
            outputs=outputs,
            identity=identity,
            facts=result.facts,
            seconds=round(seconds, 3),
            versions=versions(),
        )
        receipt.write(folder)
        if result.final:
            shutil.rmtree(folder / WORK, ignore_errors=True)
            (folder / STARTED).unlink(missing_ok=True)
        return receipt

    def keep_recipe(self, text: str) -> Path:
        """Write the resolved recipe beside the stages."""
        path = self.root / RECIPE
        if not path.is_file() or path.read_text() != text:
            write_atomic(path, lambda stream: stream.write(text.encode()))
        return path

    def _started(self, name: str) -> str:
        try:
            return str(json.loads((self.stage(name) / STARTED).read_text())["key"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def _clear(folder: Path, keep: set[str]) -> None:
    for entry in folder.iterdir():
        if entry.name in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _what_changed(receipt: Receipt, key: StageKey) -> str:
    settings = [k for k in {**receipt.settings, **key.settings} if receipt.settings.get(k) != key.settings.get(k)]
    inputs = [k for k in {**receipt.inputs, **key.inputs} if receipt.inputs.get(k) != key.inputs.get(k)]
    names = [f"setting {name}" for name in settings] + [f"input {name}" for name in inputs]
    return "changed " + ", ".join(names) if names else "another DropGate version"
