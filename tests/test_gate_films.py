# SPDX-License-Identifier: Apache-2.0
"""Filmstrips: which pairs are drawn, and that a column is one moment of both policies. Pictures are real, and tiny."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_page import page
from test_gate_judge import good, plan_of, play, row

from compress.gate.film import Film, read_reel
from compress.gate.film_choice import FilmedPair, failed_pairs
from compress.gate.filmstrip import FAILED, MOMENTS, REACHED, draw_filmstrips, moments, strip
from compress.gate.floor import task_floors
from compress.gate.jobs import Job
from compress.gate.judge import judge
from compress.gate.panels import panel_jobs
from compress.gate.plan import Pair
from compress.gate.spec import GateSpec

SIDE = 16
SPEC = GateSpec(
    pairs=60,
    margin=0.2,
    floor_gap=0.3,
    panels={"robot_pose": {"pairs": 9}, "camera": {"pairs": 9}, "instruction_swap": {"pairs": 9}},
)


def frame(value: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), value, dtype=np.uint8)


def reel(folder: Path, steps: list[int], unmet: tuple[str, ...] = ()):
    """A film whose picture after `s` steps has the grey value `s`, written and read back."""
    film = Film()
    for step in steps:
        film.see({"agentview": frame(step)}, step)
        film.see({"state": np.zeros(8)}, step)
    film.unmet = unmet
    film.save(folder / "one.npz")
    return read_reel(folder / "one.npz")


def columns(picture: np.ndarray) -> list[int]:
    """Grey value in the middle of every column."""
    return [int(picture[SIDE // 2, SIDE * i + SIDE // 2, 0]) for i in range(picture.shape[1] // SIDE)]


def test_a_column_is_the_same_moment_of_both_policies(tmp_path: Path) -> None:
    long = reel(tmp_path, list(range(0, 141, 2)))
    short = reel(tmp_path, [*range(0, 60, 8), 63])
    at = moments([long, short])
    assert at == [0, 20, 40, 60, 80, 100, 120, 140]
    assert columns(strip(long, at, False)) == at
    seen = columns(strip(short, at, True))
    assert all(abs(value - step) <= 4 for value, step in zip(seen[:4], at[:4], strict=True))
    assert min(seen[5:]) > 160, "what comes after its end is faded"


def test_the_end_is_framed_once_green_for_reached_and_red_for_failed(tmp_path: Path) -> None:
    one = reel(tmp_path, [0, 8, 16, 24])
    at = [0, 10, 24, 40]
    for success, colour in ((True, REACHED), (False, FAILED)):
        picture = strip(one, at, success)
        corners = [tuple(int(v) for v in picture[0, SIDE * i]) for i in range(len(at))]
        assert corners.count(colour) == 1
        assert corners[2] == colour


def losing(job: Job) -> bool:
    return good(job) and not (job.arm == "candidate" and job.state % 3 == 0)


def drawn_gate():
    plan = plan_of(SPEC)
    rows = play(plan, lambda job: good(job) and not (job.arm == "candidate" and (job.task, job.state) == (1, 5)))
    floors = task_floors(plan, rows)
    for name in plan.panels:
        swap = name == "instruction_swap"
        rows |= {job.key: row(job, losing(job) != swap) for job in panel_jobs(plan, floors, name)}
    return plan, floors, judge(plan, floors, rows), rows


def test_lost_pairs_come_first_and_panels_take_turns() -> None:
    plan, floors, judgement, rows = drawn_gate()
    failed = failed_pairs(plan, floors, judgement, rows)
    assert [pair.kind for pair in failed] == sorted(
        (pair.kind for pair in failed), key=["lost", "gained", "neither"].index
    )
    lost = [pair.panel for pair in failed if pair.kind == "lost"]
    assert set(lost[:4]) == {*plan.panels, "in_distribution"} & set(lost)
    assert lost[0] == "in_distribution" or "in_distribution" not in lost
    for pair in failed:
        keys = [Job.of(p, p, pair.pair, 0, told=pair.told, panel=pair.panel).key for p in ("candidate", "baseline")]
        assert rows[keys[0]].success != rows[keys[1]].success
    assert failed_pairs(plan, floors, None, rows) == []


class Projector:
    """Stands for a pool: writes the film of a job and answers with its row."""

    def __init__(self, flips: bool = False) -> None:
        self.flips, self.jobs = flips, 0

    def run(self, jobs, arrived, stop=lambda: False) -> None:
        for job in jobs:
            self.jobs += 1
            success = losing(job) != (job.panel == "instruction_swap")
            film = Film()
            for step in range(0, 80 if success else 150, 8):
                film.see({"agentview": frame(step)}, step)
            film.see({"agentview": frame(7)}, 80 if success else 150)
            film.unmet = () if success else ("in(red_block, left_tray)",)
            film.save(Path(job.film))
            arrived(row(job, success != self.flips))


def test_strips_say_when_and_why_and_are_not_drawn_twice(tmp_path: Path) -> None:
    plan, _, _, rows = drawn_gate()
    pair, told = next(scene for scene in plan.panels["robot_pose"] if scene[0].state % 3 == 0)
    shown = [FilmedPair("robot_pose", pair, told, "lost")]
    rows |= {
        job.key: row(job, losing(job))
        for p in ("candidate", "baseline")
        for job in [Job.of(p, p, pair, 0, panel="robot_pose")]
    }
    pool = Projector()
    found = draw_filmstrips(plan, shown, rows, pool, tmp_path, 3)
    assert draw_filmstrips(plan, shown, rows, pool, tmp_path, 3) == found
    assert pool.jobs == 2
    (entry,) = found
    assert entry["reproduced"]
    assert (entry["panel"], entry["kind"], len(entry["times_s"])) == ("robot_pose", "lost", MOMENTS)
    assert entry["candidate"]["why"].endswith("still missing: in(red_block, left_tray)")
    assert entry["baseline"] == {"success": True, "steps": 80, "end_s": 4.0, "why": "reached the goal"}
    with Image.open(tmp_path / entry["file"]) as picture:
        assert picture.size == (MOMENTS * SIDE, 2 * SIDE + 4)
    assert not list(tmp_path.rglob("*.npz"))


def test_an_episode_that_ends_otherwise_when_drawn_is_said(tmp_path: Path) -> None:
    plan, _, _, rows = drawn_gate()
    pair: Pair = plan.order[0]
    rows |= {job.key: row(job, losing(job)) for p in ("candidate", "baseline") for job in [Job.of(p, p, pair, 0)]}
    (entry,) = draw_filmstrips(
        plan, [FilmedPair("in_distribution", pair, pair.task, "lost")], rows, Projector(True), tmp_path, 1
    )
    assert not entry["reproduced"]
    assert entry["caption"].endswith("(not reproduced)")


@pytest.fixture
def shown(tmp_path: Path):
    """A gate folder with two strips of real pictures, one under a panel, and its entries."""
    folder = tmp_path / "gate"
    (folder / "filmstrips").mkdir(parents=True)
    plan, floors, judgement, rows = drawn_gate()
    failed = [
        pair for pair in failed_pairs(plan, floors, judgement, rows) if pair.panel in ("camera", "instruction_swap")
    ][:2]
    entries = draw_filmstrips(plan, failed, rows, Projector(), folder, 2)
    from test_gate_judge import ARMS

    from compress.gate.panels import judge_panels, release_verdict
    from compress.gate.report import write_report

    panels = judge_panels(plan, floors, judgement, rows, {})
    verdict = release_verdict(plan, floors, judgement, panels)
    write_report(folder, SPEC, *verdict, ARMS, plan, floors, judgement, rows, entries, 1.0, panels)
    return folder, entries


def test_the_page_shows_strips_side_by_side_with_moment_reason_and_perturbation(shown, tmp_path: Path) -> None:
    folder, entries = shown
    found = page(folder, tmp_path / "out.html")
    pictures = [a for tag, a in found.tags if tag == "img"]
    assert len(pictures) == len(entries) == 2
    assert {entry["panel"] for entry in entries} == {"camera", "instruction_swap"}
    for entry, picture in zip(entries, pictures, strict=True):
        assert entry["caption"] in picture["alt"]
        for policy in ("candidate", "baseline"):
            end = entry[policy]
            said = f"at {end['end_s']:g} s (step {end['steps']}): {end['why']}"
            assert said in found.text
            assert f"{policy}: {said}" in picture["alt"]
        assert " ".join(f"{time:g} s" for time in entry["times_s"]) in found.text
    assert "lost under camera : the candidate failed, the baseline did not" in found.text.replace("  ", " ")
    assert "told another sentence, the candidate still did" in found.text
    data = json.loads((folder / "gate.json").read_text())
    there = sum(panel["lost"] + panel["gained"] for panel in data["panels"])
    assert f"2 of {there} discordant pairs" in found.text


def test_pictures_that_would_make_the_page_too_large_are_left_out_and_named(shown, tmp_path: Path) -> None:
    folder, entries = shown
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1400, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    (folder / entries[0]["file"]).write_bytes(buffer.getvalue())
    found = page(folder, tmp_path / "out.html")
    assert (tmp_path / "out.html").stat().st_size < 5_000_000
    assert f"{entries[0]['file']} is left out to keep this page small" in found.text
    assert sum(tag == "img" for tag, _ in found.tags) == 1


def test_discordant_pairs_without_a_picture_are_said(shown, tmp_path: Path) -> None:
    folder, _ = shown
    data = json.loads((folder / "gate.json").read_text())
    data["filmstrips"] = []
    (folder / "gate.json").write_text(json.dumps(data))
    assert "the recipe asks for 6, or the simulator failed while drawing" in page(folder, tmp_path / "out.html").text
