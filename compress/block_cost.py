# SPDX-License-Identifier: Apache-2.0
"""What a block costs in the engine that will run it: the whole graph and one with as little of a stack as may be.

torch eager and ONNX Runtime do not spend their time alike, and a profile of fused nodes cannot be laid onto blocks. So
nothing is attributed: blocks are really cut, the cut graph is exported and timed in turns with the whole one, and what
it saves is spread over the blocks that left, in proportion to their counted FLOPs. The rest of the graph is fixed cost.
All blocks that may leave are cut, so that every plan lies between two measurements and none beyond them. Two things
are taken on trust: that blocks of one stack with equal FLOPs cost the same, and that savings add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from compress.costs import Timing, count_flops
from compress.dtr.drop import drop
from compress.export.errors import ExportError
from compress.export.graph_times import Export, engine_name, graph_times
from compress.models.base import Batch, VlaModel
from compress.plan import Plan, free_units
from compress.probing import find_group, subject_of

WHOLE = "whole"
Part = tuple[str, str, str]  # role, part, form


def engine_timings(
    load: Callable[[], VlaModel],
    batch: Batch,
    parts: Sequence[Part],
    export: Export,
    rounds: int,
    threads: int,
    say: Callable[[str], None],
) -> dict[Part, Timing]:
    """Milliseconds of one inference and of every block's part, by ONNX Runtime on this machine.

    Args:
        load: gives the policy, a fresh one each time.
        batch: one observation of it.
        parts: (role, part, form) of what is going to be cut; see `PlanSpec`.
        export, rounds, threads: see `graph_times`.
        say: called with one line per graph.

    Raises:
        ExportError: a stack has nothing that may leave, or a graph cannot be exported.
    """
    gone: dict[Part, list[int]] = {}
    flops: dict[Part, tuple[int, ...]] = {}

    def models() -> Iterator[tuple[str, VlaModel]]:
        say("exporting the whole policy, to time it")
        yield WHOLE, load()
        for number, key in enumerate(parts):
            role, part, form = key
            model = load()
            flops[key] = count_flops(model, batch, find_group(model, role), part, form)[1]
            gone[key] = cut_to_least(model, role, part, form)
            say(f"exporting it without {len(gone[key])} of {len(flops[key])} {part}s of {role}")
            yield str(number), model

    times = graph_times(models(), export, rounds, threads)
    total, found = times[WHOLE].p50_ms, {}
    for number, key in enumerate(parts):
        saved = total * max(0.0, 1.0 - times[str(number)].share_of(times[WHOLE]))
        each = saved / sum(flops[key][i] for i in gone[key])
        found[key] = Timing(total, tuple(each * count for count in flops[key]), engine_name(threads))
        say(f"{key[0]}: {len(gone[key])} {key[1]}s take {saved:.2f} of {total:.2f} ms in the engine")
    return found


def cut_to_least(model: VlaModel, role: str, part: str, form: str) -> list[int]:
    """Remove all that may leave a stack, but never its last block; where it was among the live blocks.

    Raises:
        ExportError: nothing may leave.
    """
    subject = subject_of(model, role, part)
    units = free_units(subject, whole=part == "block" and form != "stub")
    if part == "block" and sum(map(len, units)) == len(subject.blocks):
        units = units[1:]
    leaving = [block for unit in units for block in unit]
    if not leaving:
        raise ExportError(f"{role}: has {len(subject.blocks)} blocks of which none may leave, so none can be timed")
    kept = tuple(block for block in subject.blocks if block not in leaving)
    rule = {"drop": len(leaving)}
    identity = subject.model_identity
    drop(model, Plan(role, part, subject.depth, kept, tuple(leaving), "given", "", identity, rule, form=form))
    return [subject.blocks.index(block) for block in leaving]
