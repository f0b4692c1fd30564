# SPDX-License-Identifier: Apache-2.0
"""`compress import CHECKPOINT`: a published pruned checkpoint and the list of what left it become DropGate's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from compress.settings import SettingsError
from compress.verbs.answer import OK, Answer, Verbs, add_verb

if TYPE_CHECKING:
    from compress.models.pruned import Cut


def add_parser(verbs: Verbs) -> None:
    """`import`."""
    from compress.models.registry import FAMILIES

    parser = add_verb(
        verbs,
        "import",
        _import,
        "read a published pruned checkpoint with its list of removed blocks, check the two against each other, and "
        "write DropGate's own",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint folder, as published")
    parser.add_argument("--family", required=True, choices=sorted(FAMILIES), help="the adapter that reads it")
    parser.add_argument("--role", metavar="STACK", help="the stack that was cut (default: language, or the preset's)")
    parser.add_argument("--keep", metavar="N,N", help="the blocks that stayed, counted from 0 in the whole stack")
    parser.add_argument("--drop-attention", metavar="N,N", help="instead: the blocks without attention")
    parser.add_argument("--drop-mlp", metavar="N,N", help="and the blocks without MLP")
    parser.add_argument("--preset", metavar="NAME", help="instead: a published list, as in a recipe's plan")
    parser.add_argument("--depth", type=int, metavar="N", help="blocks of the whole stack, where tensors cannot tell")
    parser.add_argument("--output", type=Path, metavar="DIR", required=True, help="write the checkpoint here")


def _import(options: argparse.Namespace) -> Answer:
    from compress.models.pruned import HELD, import_pruned

    done = import_pruned(options.family, options.checkpoint, cut_of(options))
    done.model.save(options.output)
    surgery = done.surgery
    data = {
        "family": done.model.family,
        "role": done.role,
        "depth": surgery.depth,
        "kept": list(surgery.kept),
        "without_attention": list(surgery.without_attention),
        "without_mlp": list(surgery.without_mlp),
        "held": done.held,
        "parameters": sum(parameter.numel() for parameter in done.model.module.parameters()),
        "identity": done.model.identity(),
        "output": str(options.output),
    }
    lines = [
        f"{done.role}: {len(surgery.kept)} of {surgery.depth} blocks are in the list, without attention "
        f"{list(surgery.without_attention)}, without MLP {list(surgery.without_mlp)}",
        HELD[done.held],
        f"{data['parameters']:,} parameters, written to {options.output}",
    ]
    return Answer(OK, data, lines)


def cut_of(options: argparse.Namespace) -> Cut | None:
    """The list that the options give; None: they give none.

    Raises:
        SettingsError: several lists at once, a list that is no list, or a preset of another family.
    """
    from compress.models.pruned import Cut
    from compress.published import preset

    lists = {name: getattr(options, name) for name in ("keep", "drop_attention", "drop_mlp")}
    given = [name for name, text in lists.items() if text is not None]
    if len({name.split("_")[0] for name in given}) + (options.preset is not None) > 1:
        raise SettingsError("give one of --keep, --preset, or --drop-attention and --drop-mlp; found several")
    if options.preset is not None:
        found = preset(options.preset)
        mine = (options.family, options.role or found.role, options.depth or found.depth)
        if mine != (found.family, found.role, found.depth):
            raise SettingsError(
                f"--preset {options.preset} is of {found.depth} blocks of {found.family} {found.role}, the options say "
                f"{mine[2]} of {mine[0]} {mine[1]}"
            )
        return Cut(found.role, found.keep, depth=found.depth)
    if not given:
        return None
    keep, attention, mlp = (None if text is None else _blocks(name, text) for name, text in lists.items())
    return Cut(options.role or "language", keep, attention or (), mlp or (), options.depth)


def _blocks(name: str, text: str) -> tuple[int, ...]:
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise SettingsError(f"--{name.replace('_', '-')} is {text!r}, expected block numbers such as 0,2,4")
    return tuple(int(part) for part in text.split(","))
