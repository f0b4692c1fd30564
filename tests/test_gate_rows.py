# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace

import pytest

from compress.gate.rows import EpisodeRow, RowLog, RowsDamaged, read_rows

ROW = EpisodeRow("suite", 1, "task", 7, 0, "baseline", "baseline", 1, True, 80, 10, 2.5, 0.5)
OTHER = replace(ROW, state=8, success=False, error="RuntimeError: planted")
RECORDING = replace(ROW, arm="expert", policy="expert", actions=((0.1, 0.2), (-0.30000001192092896, 1.0)))


def log_of(path, *rows):
    with RowLog(path) as log:
        for row in rows:
            log.append(row)


def test_rows_come_back_as_they_were_written(tmp_path):
    log_of(tmp_path / "rows.jsonl", ROW, OTHER, RECORDING)
    assert read_rows(tmp_path / "rows.jsonl") == (ROW, OTHER, RECORDING)


@pytest.mark.parametrize("keep", [1, 10, -1])
def test_a_torn_last_line_is_cut_off_and_the_log_goes_on(tmp_path, keep):
    path = tmp_path / "rows.jsonl"
    log_of(path, ROW, OTHER)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:keep])
    with RowLog(path) as log:
        assert set(log.rows) == {ROW.key}
        log.append(OTHER)
    assert read_rows(path) == (ROW, OTHER)
    assert path.read_bytes() == first + second


def test_damage_in_the_middle_is_named_by_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    log_of(path, ROW, OTHER)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{torn\n" + lines[1])
    with pytest.raises(RowsDamaged, match="line 2"):
        RowLog(path)


def test_an_episode_that_stands_there_twice_is_refused(tmp_path):
    """The last one would win: a failure could be taken back by appending a success."""
    path = tmp_path / "rows.jsonl"
    log_of(path, replace(ROW, success=False), OTHER)
    path.write_bytes(path.read_bytes() + json.dumps(ROW.to_json()).encode() + b"\n")
    with pytest.raises(RowsDamaged, match=r"line 3 .*the episode of line 1 again"):
        RowLog(path)


@pytest.mark.parametrize("change", [{"arm": "winner"}, {"policy": "blind"}, {"success": 1}, {"extra": 0}])
def test_a_row_that_is_not_an_episode_is_refused(change):
    with pytest.raises(RowsDamaged, match="expected"):
        EpisodeRow.from_json({**ROW.to_json(), **change})


def test_a_log_from_before_panels_is_refused_with_what_is_missing(tmp_path):
    old = {name: value for name, value in ROW.to_json().items() if name != "panel"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(old) + "\n")
    with pytest.raises(RowsDamaged, match=r"panel.*Next: run the gate in a new folder"):
        RowLog(tmp_path / "rows.jsonl")


def test_the_same_scene_in_another_arm_or_with_another_sentence_is_another_row():
    variants = [
        ROW,
        replace(ROW, arm="candidate", policy="candidate"),
        replace(ROW, told=2, panel="instruction_swap"),
        replace(ROW, panel="camera"),
        OTHER,
    ]
    assert len({row.key for row in variants}) == 5
    assert replace(ROW, success=False, wall_s=9.0).key == ROW.key


def test_nan_never_reaches_the_disk(tmp_path):
    with RowLog(tmp_path / "rows.jsonl") as log, pytest.raises(ValueError, match="JSON compliant"):
        log.append(replace(ROW, wall_s=float("nan")))
    assert json.dumps(list(read_rows(tmp_path / "rows.jsonl"))) == "[]"
