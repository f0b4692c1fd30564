# SPDX-License-Identifier: Apache-2.0
"""A small but real run folder, made once per test process by the very producers: tiny policy, all evidence files."""

from __future__ import annotations

import atexit
import functools
import random
import shutil
import tempfile
from pathlib import Path

import algorithm_factory as tiny
from test_gate_judge import play, row

from compress import baselines, digests
from compress.atomic import write_json
from compress.calibration import CalibrationSet
from compress.dtr.drop import drop
from compress.dtr.recover import recover
from compress.dtr.spec import RecoverSpec
from compress.export.bench import compare
from compress.export.draft import export_draft
from compress.gate.floor import task_floors
from compress.gate.jobs import Job
from compress.gate.judge import judge
from compress.gate.panels import judge_panels, panel_jobs, release_verdict
from compress.gate.plan import GatePlan, SuiteTask, make_plan
from compress.gate.policies import PolicySource
from compress.gate.report import write_report
from compress.gate.spec import GateSpec
from compress.gate.verdict import unfit_for_proof
from compress.plan import PlanSpec, save_plans
from compress.plan import make_plan as cut
from compress.recipe import Recipe
from compress.seal import seal
from runtime.contract.artifact import load_manifest

NASTY = "put <script>alert('1')</script> & \"block\" in the tray"
SENTENCES = (
    NASTY,
    "put the blue block in the left tray",
    "put the red block in the right tray, behind the very large tower of cups",
)
STACKS = (("language", "block", {"drop": 2}), ("vision.siglip", "block", {"keep": 2}))


@functools.cache
def _root() -> Path:
    made = tempfile.TemporaryDirectory(prefix="dropgate-report-")
    atexit.register(made.cleanup)
    return Path(made.name)


@functools.cache
def run_folder() -> Path:
    """A finished run; never change it, copy it (`copy_run`)."""
    root = _root() / "run"
    whole, small = tiny.policy(), tiny.policy()
    calibration = CalibrationSet(whole, tiny.samples(12), 4)
    scores, others, plans = [], [], []
    for role, part, amount in STACKS:
        scores.append(baselines.scorer("gateprobe")(whole, calibration, role, part, 0, None))
        others += [baselines.scorer(name)(whole, calibration, role, part, 0, None) for name in ("uniform", "cosine")]
        plans.append(cut(scores[-1], PlanSpec(role, part, **amount)))
    write_json(
        root / "probe/probe.json",
        {
            "schema": "dropgate.probe/1",
            "metric": "gateprobe",
            "calibration": {"digest": calibration.digest(), "samples": 12, "seed": 0},
            "scores": [item.to_json() for item in scores],
            "compared": [item.to_json() for item in others],
        },
    )
    save_plans(root / "plan/plan.json", plans)
    drop(small, plans)
    spec = RecoverSpec(steps=12, batch_size=4, warmup=2, log_every=1, held_out=0.2, bf16=False)
    recover(small, tiny.demos(), spec, root / "recover")
    (root / "recover/checkpoint.pt").unlink(missing_ok=True)
    recipe = Recipe("tiny").to_ship()
    (root / "export").mkdir()
    (root / "export/recipe.yaml").write_text(recipe)
    export_draft(small, tiny.samples(8), root / "export/candidate", _lineage(whole, root))
    only = (root / "export/candidate", None)  # one export is enough here
    write_json(root / "export/bench.json", compare({"baseline": only, "candidate": only}, rounds=5).to_json())
    gate(root / "gate")
    return root


def _lineage(whole: tiny.ReferenceVla, root: Path) -> dict[str, object]:
    return {
        "source": {"name": "tiny", "revision": "test", "sha256": whole.identity()},
        "recipe_sha256": digests.of_file(root / "export/recipe.yaml"),
        "plan_sha256": digests.of_file(root / "plan/plan.json"),
    }


def gate_plan(spec: GateSpec) -> GatePlan:
    suite = tuple(SuiteTask(i, f"task_{i}", sentence, 60, 150) for i, sentence in enumerate(SENTENCES))
    return make_plan(spec, suite, {name: source.identity for name, source in arms().items()})


def arms() -> dict[str, PolicySource]:
    candidate = load_manifest(_root() / "run/export/candidate")[0].policy_id
    return {
        "candidate": PolicySource(candidate, artifact="candidate"),
        "baseline": PolicySource("b" * 64, artifact="baseline"),
    }


def gate(folder: Path, losses: float = 0.03, spec: GateSpec | None = None, pictures: bool = True) -> None:
    """A gate run on synthetic episodes: the candidate fails a share `losses` of the pairs, the baseline some others."""
    spec = spec or GateSpec(panels={"instruction_swap": {"pairs": 4, "advisory": True}})
    plan, luck = gate_plan(spec), random.Random(1)
    fate = {pair: luck.random() for pair in plan.order}

    def solves(job: Job) -> bool:
        if job.arm == "blind":
            return job.state % 5 == 0
        share = next(value for pair, value in fate.items() if (pair.task, pair.state) == (job.task, job.state))
        return not (job.arm == "candidate" and share < losses) and not (job.arm == "baseline" and share > 0.96)

    rows = play(plan, solves)
    floors = task_floors(plan, rows)
    judgement = None if unfit_for_proof(plan, floors) else judge(plan, floors, rows)
    rows |= {job.key: row(job, False) for name in plan.panels for job in panel_jobs(plan, floors, name)}
    panels = judge_panels(plan, floors, judgement, rows, {})
    strips = _strips(folder) if pictures else ()
    write_report(
        folder,
        spec,
        *release_verdict(plan, floors, judgement, panels),
        arms(),
        plan,
        floors,
        judgement,
        rows,
        strips,
        12.0,
        panels,
    )


def _strips(folder: Path) -> tuple[dict[str, object], ...]:
    import numpy as np
    from PIL import Image

    (folder / "filmstrips").mkdir(parents=True)
    shade = np.tile(np.linspace(0, 255, 256, dtype=np.uint8), (68, 1))
    Image.fromarray(np.stack([shade] * 3, axis=-1)).save(folder / "filmstrips/task0_state7.png")
    strip = {
        "file": "filmstrips/task0_state7.png",
        "caption": f"{NASTY}, state 7: lost",
        "task": 0,
        "state": 7,
        "seed": 0,
    }
    return ({**strip, "kind": "lost", "reproduced": True},)


def copy_run(target: Path) -> Path:
    """A run folder to change."""
    return Path(shutil.copytree(run_folder(), target))


def artifact(target: Path) -> Path:
    """The run's candidate, sealed."""
    run = run_folder()
    names = {"probe": "probe", "plan": "plan", "recovery": "recover", "bench": "export", "gate": "gate"}
    evidence = {f"{name}.json": run / stage / f"{name}.json" for name, stage in names.items()}
    evidence["episodes.parquet"] = run / "gate/episodes.parquet"
    return seal(run / "export/candidate", evidence, None, target, recipe=run / "export/recipe.yaml")
