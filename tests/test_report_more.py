# SPDX-License-Identifier: Apache-2.0
"""Floor, what ships, panels: every number on the page is the evidence's own, wherever it is read from."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_page import Page, page
from test_report_panels import FURTHER, gate

from compress.gate.spec import GateSpec
from compress.report import ReportError

NASTY = "a <script>alert('1')</script> & \"b\""
FLOOR = {
    "floor_ms": 30.711,
    "compute_ms": 29.017,
    "bandwidth_ms": 1.523,
    "launch_ms": 0.171,
    "achieved_ms": 61.822,
    "ratio": 2.013,
    "binds": "overhead",
}


def timed(name: str, policy: str, floor: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "name": name,
        "artifact_id": "a" * 64,
        "policy_id": policy,
        "runs": 41,
        "p50_ms": 70.25,
        "p95_ms": 80.0,
        "p99_ms": 91.5,
        "max_ms": 99.0,
        "mean_ms": 71.0,
        "stages": {"inference": 61.822},
        "floor": floor,
        "no_floor": "" if floor else "the artifact has no work.json",
    }


BENCH = {
    "schema": "dropgate.bench/1",
    "artifacts": [timed("baseline", "b" * 64, None), timed(NASTY, "c" * 64, FLOOR)],
    "backend": "onnxruntime",
    "threads": 1,
    "machine": {"cpu": "some CPU", "machine": "x", "cpus": 2},
    "load": {"after": 7.75, "before": 1.25},
    "versions": {},
}
TRIMS = {
    "trims": [
        {
            "name": "rows",
            "what": [NASTY],
            "before": {"flops": 846_546_432, "bytes": 19_995_676},
            "after": {"flops": 808_274_688, "bytes": 19_995_676},
        },
        {
            "name": "kv",
            "what": [],
            "before": {"flops": 808_274_688, "bytes": 20_176_281},
            "after": {"flops": 808_274_688, "bytes": 20_176_281},
        },
    ]
}
CONVERTIBLE = {
    "status": "converts",
    "why": "",
    "builder": "tensorrt_rtx 1.7.1",
    "layers": 1525,
    "dtypes": {"FLOAT": 863, "INT64": 655},
    "multiplies": {"MATRIX_MULTIPLY": {"FLOAT": 92}},
    "kept_float32": {"Softmax": 6},
}
TRIM = {"elements_before": 7_655_431, "elements_after": 7_600_000, "share": 0.0072, "bytes_saved": 221_724}
PLACES = {
    "export/candidate/evidence/trims.json": TRIMS,
    "export/candidate/evidence/convertible.json": CONVERTIBLE,
    "trim/trim.json": TRIM,
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the gate and what the export said; made once, copied by `run`."""
    root = tmp_path_factory.mktemp("more")
    gate(root / "gate", GateSpec(), 4, panels=FURTHER)
    return root


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    root = tmp_path / "run"
    (root / "gate").mkdir(parents=True)
    (root / "gate/gate.json").write_bytes((template / "gate/gate.json").read_bytes())
    for place, data in PLACES.items():
        write(root / place, data)
    write(tmp_path / "bench.json", BENCH)
    return root


def write(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def shown(run: Path, **more: Any) -> Page:
    return page(run, run.parent / "out.html", bench=run.parent / "bench.json", **more)


def put(data: Any, keys: tuple[Any, ...], value: object) -> Any:
    """A copy of `data` with one leaf changed."""
    changed = at = copy.deepcopy(data)
    for key in keys[:-1]:
        at = at[key]
    assert keys[-1] in at or isinstance(at, list)
    at[keys[-1]] = value
    return changed


GATE, TRIMMED, BUILT, TOOK = "gate/gate.json", *PLACES
LEAVES = [  # file, where in it, new value, how a person reads it
    (GATE, ("panels", 1, "difference", "lower"), -0.7654, "\u221276.5"),
    (GATE, ("panels", 1, "difference", "upper"), 0.4321, "+43.2"),
    (GATE, ("panels", 2, "candidate", "successes"), 4711, "4711/30"),
    (GATE, ("panels", 2, "candidate", "wilson95"), [0.313, 0.987], "(31 to 99)"),
    (GATE, ("panels", 1, "steps_to_success", "candidate"), 91.5, "91.5 / 80"),
    (GATE, ("panels", 1, "margin"), 0.0777, "\u22127.8"),
    (GATE, ("panels", 1, "planned"), 4321, " of 4321"),
    (GATE, ("paired", "lower"), -0.0123, "\u22121.2"),
    (GATE, ("paired", "mcnemar_p"), 0.0625, "0.062"),
    (GATE, ("tasks", 0, "tango95"), [-0.1234, 0.2345], "(\u221212.3 to +23.4)"),
    (GATE, ("warnings",), [f"camera: median success takes 190 steps, {NASTY}"], f"190 steps, {NASTY}"),
    (TRIMMED, ("trims", 0, "after", "flops"), 123_400_000, "123"),
    (TRIMMED, ("trims", 1, "after", "bytes"), 17_700_000, "17.7"),
    (BUILT, ("layers",), 1776, "1776 layers"),
    (BUILT, ("dtypes", "FLOAT"), 864, "864"),
    (BUILT, ("kept_float32", "Softmax"), 17, "Softmax 17"),
    (TOOK, ("elements_after",), 7_655_000, "dropped, 431 of 7,655,431"),
    ("../bench.json", ("artifacts", 1, "floor", "ratio"), 3.456, "3.46"),
    ("../bench.json", ("artifacts", 1, "floor", "bandwidth_ms"), 7.891, "7.89"),
    ("../bench.json", ("artifacts", 1, "floor", "achieved_ms"), 55.51, "55.5"),
    ("../bench.json", ("load", "before"), 9.75, "9.8, 7.8 (before, after)"),
]


@pytest.mark.parametrize(("file", "keys", "value", "reads"), LEAVES)
def test_a_number_that_changes_in_the_evidence_changes_on_the_page(
    run: Path, file: str, keys: tuple[Any, ...], value: object, reads: str
) -> None:
    assert reads not in shown(run).text
    write(run / file, put(json.loads((run / file).read_text()), keys, value))
    assert reads in shown(run).text


def test_what_a_person_types_stays_text(run: Path) -> None:
    found = shown(run)
    assert found.text.count(NASTY) >= 3
    assert "script" not in {tag for tag, _ in found.tags}


def test_each_part_that_is_missing_is_named(run: Path) -> None:
    for place in PLACES:
        (run / place).unlink()
    found = page(run, run.parent / "out.html")
    for missing in (
        "No trims evidence",
        "No convertible evidence",
        "No floor evidence",
        "No parity evidence",
        "No bench evidence",
    ):
        assert missing in found.text
    data = json.loads((run / GATE).read_text())
    del data["panels"]
    write(run / GATE, data)
    assert "No panel evidence: this gate is older than panels" in page(run, run.parent / "out.html").text


@pytest.mark.parametrize("place", [*PLACES, "../bench.json"])
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"trims": [{}]}'])
def test_a_damaged_part_is_an_error_that_names_it(run: Path, place: str, content: str) -> None:
    (run / place).write_text(content)
    with pytest.raises(ReportError, match=re.escape(Path(place).name)):
        shown(run)
    assert not (run.parent / "out.html").exists()


def test_a_bench_of_another_policy_is_refused(run: Path) -> None:
    write(run / "../bench.json", put(BENCH, ("artifacts",), [timed("other", "d" * 64, FLOOR)]))
    with pytest.raises(ReportError, match="timed policies dddddddddddd, not cccccccccccc"):
        shown(run)


def test_a_graph_that_was_not_tried_is_no_pass(run: Path) -> None:
    write(run / BUILT, {**CONVERTIBLE, "status": "not checked", "why": "nobody asked"})
    assert "TensorRT: not checked (nobody asked). That is not a pass." in shown(run).text


def test_a_pass_whose_baseline_fails_itself_is_not_drawn_as_one(run: Path) -> None:
    data = json.loads((run / GATE).read_text())
    data["panels"][0]["outcome"] = data["panels"][1]["outcome"] = "pass"
    data["warnings"] = ["robot_pose: proves nothing, the baseline itself manages 0 of 30"]
    write(run / GATE, data)
    found = shown(run)
    assert "no proof" in found.text
    assert "pass, proves nothing" in found.text
    assert found.text.count("proves nothing, the baseline itself manages 0 of 30") == 2  # on top, and at the panels


def test_every_table_says_what_its_columns_are_and_every_picture_has_words(run: Path) -> None:
    found = shown(run)
    heads = [attributes for tag, attributes in found.tags if tag == "th"]
    assert all(attributes.get("scope") in ("col", "row") for attributes in heads)
    assert ("html", {"lang": "en"}) in found.tags
    ids = [attributes["id"] for _, attributes in found.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    drawings = [attributes for tag, attributes in found.tags if tag == "svg"]
    assert all(set(str(a["aria-labelledby"]).split()) <= set(ids) for a in drawings)
    assert {"floor-t", "shipped-t", "panel_rates-t"} <= set(ids)
