# SPDX-License-Identifier: Apache-2.0
"""A run folder: what is done is known by content, what changed is done again, nothing finished is ever lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import compress.run_dir as run_dir_module
from compress.disk import DiskFullError, naming_full_disk, require_space
from compress.receipt import RECEIPT, Receipt
from compress.run_dir import Result, RunDir, StageKey
from compress.run_lock import LOCK, RunLockedError, locked

REPO = Path(__file__).resolve().parent.parent


def key(stage: str = "drop", inputs: dict[str, str] | None = None, **settings: Any) -> StageKey:
    return StageKey(stage, settings or {"keep": 6}, inputs or {"plan": "abc"})


def done(run: RunDir, which: StageKey, text: str = "weights") -> Receipt:
    folder = run.begin(which, fresh=False)
    (folder / "out").mkdir()
    (folder / "out" / "model.bin").write_text(text)
    return run.finish(which, Result([folder / "out"], {"parameters": 3}), 1.0)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def test_fresh_stage_is_not_done(run: RunDir) -> None:
    assert run.why_not_done(key()) == "not done yet"


def test_finished_stage_is_done(run: RunDir) -> None:
    done(run, key())
    assert run.why_not_done(key()) == ""


def test_receipt_round_trips(run: RunDir) -> None:
    receipt = done(run, key())
    assert run.receipt("drop") == receipt
    assert receipt.outputs[0].path == "out/model.bin"
    assert receipt.outputs[0].size == len("weights")
    assert receipt.versions["python"]


def test_receipt_is_readable_by_people(run: RunDir) -> None:
    done(run, key())
    text = (run.stage("drop") / "receipt.md").read_text()
    assert all(part in text for part in ("# Receipt: drop", "out/model.bin", "keep: `6`", "parameters: `3`"))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (key(keep=5), "changed setting keep"),
        (key(inputs={"plan": "other"}), "changed input plan"),
        (key(inputs={"plan": "abc", "data": "new"}), "changed input data"),
        (key(keep=6, lr=1), "changed setting lr"),
    ],
)
def test_changed_key_is_redone_and_named(run: RunDir, changed: StageKey, why: str) -> None:
    done(run, key())
    assert run.why_not_done(changed) == why


def test_other_version_is_redone(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    done(run, key())
    monkeypatch.setattr(run_dir_module, "version", lambda: "9.9.9")
    assert run.why_not_done(key()) == "another DropGate version"


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda path: path.write_text("WEIGHTS"), "damaged output: changed out/model.bin"),
        (lambda path: path.write_text("longer than before"), "damaged output: changed out/model.bin"),
        (lambda path: path.write_text(""), "damaged output: changed out/model.bin"),
        (lambda path: path.unlink(), "damaged output: missing out/model.bin"),
    ],
    ids=["flipped", "longer", "emptied", "removed"],
)
def test_damaged_output_is_noticed(run: RunDir, harm: Callable[[Path], Any], why: str) -> None:
    done(run, key())
    harm(run.stage("drop") / "out" / "model.bin")
    assert run.why_not_done(key()) == why


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"stage": "drop"}', '{"outputs": 3}'])
def test_damaged_receipt_counts_as_none(run: RunDir, text: str) -> None:
    done(run, key())
    (run.stage("drop") / RECEIPT).write_text(text)
    assert run.receipt("drop") is None
    assert run.why_not_done(key()) == "not done yet"


def test_interrupted_stage_keeps_its_work_only(run: RunDir) -> None:
    folder = run.begin(key(), fresh=False)
    (run.work("drop") / "checkpoint.pt").write_text("step 100")
    (folder / "half_written").write_text("x")
    assert run.why_not_done(key()) == "resumed"
    run.begin(key(), fresh=False)
    assert (run.work("drop") / "checkpoint.pt").read_text() == "step 100"
    assert not (folder / "half_written").exists()


def test_work_of_another_key_is_not_resumed(run: RunDir) -> None:
    run.begin(key(), fresh=False)
    (run.work("drop") / "checkpoint.pt").write_text("step 100")
    assert run.why_not_done(key(keep=5)) == "not done yet"
    run.begin(key(keep=5), fresh=False)
    assert not list(run.work("drop").iterdir())


def test_fresh_forgets_the_work(run: RunDir) -> None:
    run.begin(key(), fresh=False)
    (run.work("drop") / "checkpoint.pt").write_text("step 100")
    run.begin(key(), fresh=True)
    assert not list(run.work("drop").iterdir())


def test_done_stage_leaves_no_work(run: RunDir) -> None:
    done(run, key())
    assert sorted(path.name for path in run.stage("drop").iterdir()) == ["out", "receipt.json", "receipt.md"]


def test_redoing_removes_the_old_receipt_first(run: RunDir) -> None:
    done(run, key())
    run.begin(key(keep=5), fresh=False)
    assert run.receipt("drop") is None


def test_result_that_is_not_final_is_tried_again_with_its_work(run: RunDir) -> None:
    folder = run.begin(key(), fresh=False)
    (folder / "out").write_text("hold: no simulator")
    (run.work("drop") / "rows").write_text("1")
    run.finish(key(), Result([folder / "out"], final=False), 1.0)
    assert run.why_not_done(key()) == "not final last time"
    run.begin(key(), fresh=False)
    assert (run.work("drop") / "rows").read_text() == "1"


def test_unwritten_output_is_refused(run: RunDir) -> None:
    folder = run.begin(key(), fresh=False)
    with pytest.raises(FileNotFoundError, match="promised this output"):
        run.finish(key(), Result([folder / "nothing"]), 1.0)
    assert run.receipt("drop") is None


def test_outputs_elsewhere_are_watched_too(run: RunDir, tmp_path: Path) -> None:
    outside = tmp_path / "cache.hdf5"
    outside.write_text("demos")
    run.begin(key(), fresh=False)
    run.finish(key(), Result([outside]), 1.0)
    assert run.why_not_done(key()) == ""
    outside.write_text("other")
    assert run.why_not_done(key()) == f"damaged output: changed {outside}"


def test_identity_is_content_not_time(run: RunDir) -> None:
    first = done(run, key())
    time.sleep(0.01)
    assert done(run, key()).identity == first.identity
    assert done(run, key(), "other weights").identity != first.identity


def test_second_run_in_one_folder_is_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(RunLockedError, match=rf"in use by process {os.getpid()} on .* since .*--output"),
        locked(tmp_path),
    ):
        pass


def test_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom compress.run_lock import locked\n"
        f"with locked(Path({str(tmp_path)!r})):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPO, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(RunLockedError, match=f"process {child.pid} "), locked(tmp_path):
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_lock_with_a_torn_note_is_still_a_lock(tmp_path: Path) -> None:
    handle = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(RunLockedError, match="in use by another process"), locked(tmp_path):
        pass
    os.close(handle)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_names_path_free_and_needed(tmp_path: Path, code: int) -> None:
    with (
        pytest.raises(
            DiskFullError, match=r"disk full while writing .*: .* free, about 5\.0 MB needed\. Finished stages are kept"
        ) as caught,
        naming_full_disk(tmp_path, 5_000_000),
    ):
        raise OSError(code, "No space left on device")
    assert str(tmp_path) in str(caught.value)


def test_full_disk_prefers_the_file_that_failed(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=r"model\.bin"), naming_full_disk(tmp_path, 1):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "model.bin"))


def test_other_system_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), naming_full_disk(tmp_path, 1):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_too_little_space_is_refused_beforehand(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "there" / "yet", 1)
    with pytest.raises(DiskFullError, match="free, about"):
        require_space(tmp_path, 10**18)


class LibraryError(Exception):
    """What a library makes of a system error."""


@pytest.mark.parametrize(
    "words",
    ["Error while serializing: IoError(Os { code: 28, message: No space left on device })", "Disk quota exceeded"],
)
def test_full_disk_is_recognised_behind_a_library(tmp_path: Path, words: str) -> None:
    with pytest.raises(DiskFullError, match="disk full while writing"), naming_full_disk(tmp_path, 1):
        raise LibraryError(words)


def write_through_a_library() -> None:
    try:
        raise OSError(errno.ENOSPC, "full", "x.pt")
    except OSError as error:
        raise LibraryError("could not write") from error


def test_full_disk_is_found_in_the_cause(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=r"disk full while writing x\.pt"), naming_full_disk(tmp_path, 1):
        write_through_a_library()


def test_other_library_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(LibraryError), naming_full_disk(tmp_path, 1):
        raise LibraryError("bad shape")
