# SPDX-License-Identifier: Apache-2.0
"""`compress reference demos | train | eval`: the commands that made the shipped policy, and that make the next one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.gate.rows import EpisodeRow

SUITE = "dropgate_tabletop"


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Hang `reference` with its three verbs under the `compress` parser; each sets `handler`."""
    parser = verbs.add_parser("reference", help="make demonstrations for, train and measure the built-in policy")
    actions = parser.add_subparsers(dest="action", required=True)

    demos = actions.add_parser("demos", help="write scripted-expert demonstrations (LIBERO's HDF5 format)")
    demos.add_argument("folder", type=Path)
    demos.add_argument("--suite", default=SUITE)
    demos.add_argument("--episodes", type=int, default=100, help="per task")
    demos.add_argument("--seed", type=int, default=0)
    demos.add_argument("--noise", type=float, default=0.2, help="standard deviation of the action noise, in commands")
    demos.add_argument("--workers", type=int, default=2)
    demos.set_defaults(handler=run_demos)

    train = actions.add_parser("train", help="behaviour cloning; resumable, on a GPU where there is one")
    train.add_argument("demos", type=Path, help="folder written by `compress reference demos`")
    train.add_argument("folder", type=Path, help="of the run; holds checkpoint and weights")
    train.add_argument("--steps", type=int, default=3000)
    train.add_argument("--batch-size", type=int, default=48)
    train.add_argument("--lr", type=float, default=6e-4)
    train.add_argument("--warmup", type=int, default=150)
    train.add_argument("--ema", type=float, default=0.998)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--initial", type=Path, help="start from the weights of this checkpoint folder")
    train.add_argument(
        "--until", type=int, help="end after this step of the schedule; the run can be taken further later"
    )
    train.set_defaults(handler=run_train)

    evaluate = actions.add_parser("eval", help="closed-loop success on stored initial states")
    evaluate.add_argument("checkpoint", type=Path)
    evaluate.add_argument("--suite", default=SUITE)
    evaluate.add_argument("--states", default="0-24", help="first and last stored state, each with every task")
    evaluate.add_argument("--wrong-instruction", action="store_true", help="speak the sentence of another task")
    evaluate.add_argument("--workers", type=int, default=2)
    evaluate.add_argument("--out", type=Path, help="write the result there too")
    evaluate.set_defaults(handler=run_eval)


def run_demos(args: argparse.Namespace) -> int:
    """Write demonstrations."""
    from compress.sim.demos import write_demos

    files = write_demos(
        args.folder, args.suite, workers=args.workers, episodes_per_task=args.episodes, seed=args.seed, noise=args.noise
    )
    print(
        json.dumps(
            [{"path": str(f.path), "episodes": f.episodes, "attempts": f.attempts, "bytes": f.bytes} for f in files]
        )
    )
    return 0


def run_train(args: argparse.Namespace) -> int:
    """Train and say where the weights are."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from compress.data.libero_hdf5 import open_demos
    from compress.models.reference_config import ReferenceConfig
    from compress.reference.train import train_reference
    from compress.training import TrainSettings

    arrays = open_demos(args.demos).load_arrays()
    settings = TrainSettings(steps=args.steps, lr=args.lr, warmup=args.warmup, ema=args.ema, seed=args.seed)
    columns = (
        TextColumn("train"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    from rich.console import Console

    with Progress(*columns, console=Console(stderr=True)) as bar:
        line = bar.add_task("train", total=args.steps, loss=float("nan"))
        run = train_reference(
            arrays, args.folder, ReferenceConfig(), settings, args.batch_size, initial=args.initial, until=args.until,
            on_step=lambda step, loss, _lr: bar.update(line, completed=step, loss=loss),
        )  # fmt: skip
    print(json.dumps({"checkpoint": str(run.checkpoint), "held_out_l1": run.held_out_l1, "final_loss": run.final_loss}))
    return 0


def run_eval(args: argparse.Namespace) -> int:
    """Measure and print one JSON object."""
    from compress.atomic import write_json
    from compress.reference.evaluate import evaluate, jobs, summary
    from compress.sim.envs import open_suite

    first, _, last = args.states.partition("-")
    suite = open_suite(args.suite)
    caps = [task.max_steps for task in suite.tasks]
    todo = jobs(len(suite.tasks), range(int(first), int(last or first) + 1), args.wrong_instruction, caps)
    tally: list[bool] = []

    def show(row: EpisodeRow) -> None:
        tally.append(row.success)
        print(f"\r{sum(tally)} of {len(tally)} succeeded ({len(todo)} in all)", end="", file=sys.stderr, flush=True)

    rows = evaluate(args.checkpoint, args.suite, todo, args.workers, show)
    print(file=sys.stderr)
    result = {
        "checkpoint": str(args.checkpoint),
        "suite": args.suite,
        "wrong_instruction": args.wrong_instruction,
        **summary(rows, [t.name for t in suite.tasks]),
    }
    if args.out is not None:
        write_json(args.out, result)
    print(json.dumps({k: v for k, v in result.items() if k != "rows"}))
    return 0
