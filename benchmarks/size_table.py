# SPDX-License-Identifier: Apache-2.0
"""How much leaves: parameters and FLOPs of the published sizes, counted here, beside the paper's columns.

    python benchmarks/size_table.py [--flow-steps N] [--json FILE]

Nothing is loaded: networks are built on torch's meta device, FLOPs are counted while they run there (matrix products
and attention, one observation). OpenVLA-OFT sees two images and 32 prompt tokens; pi0.5 three images of which one may
be blank, and 200 prompt tokens. The paper's shares for pi0.5 fit one flow step, not the ten of an inference, and a
removed block whose attention is not computed at all; here a stub still multiplies its zeros (about 2 points at half).
Paper: arXiv 2606.27755, table 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compress.models.base import Surgery
from compress.models.surgery import operate

CUTS: dict[str, tuple[tuple[str, str, tuple[int, ...], float | None, float | None], ...]] = {
    "openvla_oft": (
        ("language, every other block", "language", tuple(range(0, 32, 2)), 55.5, 55.0),
        ("language, blocks 0 and 31", "language", (0, 31), 16.6, 15.6),
    ),
    "pi05": (
        ("language, every other block", "language", tuple(range(0, 18, 2)), 60.6, 57.9),
        ("language, blocks 0 and 17", "language", (0, 17), 30.0, 25.1),
        ("action, every other block", "action", tuple(range(0, 18, 2)), 93.8, 99.5),
        ("vision, every other block", "vision.siglip", tuple(range(0, 27, 2)), 89.5, 93.3),
    ),
}


def openvla_oft() -> tuple[nn.Module, Sequence[Any], Callable[[nn.Module, int], int], str]:
    """The network, its groups, its FLOPs for one observation, and the prefix of the language stack's weights."""
    from compress.models.openvla_oft import LANGUAGE
    from compress.models.openvla_oft_config import openvla_7b
    from compress.models.openvla_oft_module import OpenVlaOftModule

    module = OpenVlaOftModule(openvla_7b())

    def run(network: nn.Module, steps: int) -> int:
        network.language.config.num_hidden_layers = len(network.language.layers)
        ids = torch.ones(1, 32, dtype=torch.int64)
        return flops(lambda: network(torch.zeros(1, 2, 3, 224, 224), ids, ids, torch.zeros(1, 8)))

    return module, (LANGUAGE,), run, "language.layers."


def pi05() -> tuple[nn.Module, Sequence[Any], Callable[[nn.Module, int], int], str]:
    """The same for pi0.5."""
    from transformers import PI0Config

    from compress.models.pi0_graph import sampler
    from compress.models.pi0_groups import groups
    from compress.models.pi05_module import Pi05Module

    config = PI0Config()
    module = Pi05Module(config)

    def run(network: nn.Module, steps: int) -> int:
        whole = sampler(network, (config.chunk_size, config.max_action_dim), steps, 7, 0).to("meta")
        ids = torch.ones(1, 200, dtype=torch.int64)
        return flops(lambda: whole(torch.zeros(1, 3, 3, 224, 224), ids, ids, torch.zeros(1, 8)))

    return module, groups("paligemma", "expert"), run, "paligemma.language_model."


FAMILIES = {"openvla_oft": openvla_oft, "pi05": pi05}


def flops(run: Callable[[], Any]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def elements(module: nn.Module, prefix: str = "") -> int:
    return sum(value.numel() for name, value in module.named_parameters() if name.startswith(prefix))


def rows(family: str, steps: int) -> list[dict[str, Any]]:
    """One per cut: shares in percent."""
    with torch.device("meta"):
        module, groups, run, part = FAMILIES[family]()
        whole, whole_part, whole_flops = elements(module), elements(module, part), run(module, steps)
        found = [{"family": family, "cut": "none", "parameters": whole, "flops": whole_flops}]
        for name, role, kept, size, share in CUTS[family]:
            module, groups, run, part = FAMILIES[family]()
            group = next(g for g in groups if g.role == role)
            depth = len(group.stack(module))
            stub = tuple(i for i in range(depth) if i not in kept)
            wanted = Surgery(depth, kept) if group.compact else Surgery(depth, tuple(range(depth)), stub, stub)
            operate(module, group, Surgery.none(depth), wanted)
            gone = whole - elements(module)
            found.append(
                {
                    "family": family, "cut": name, "parameters": elements(module), "flops": run(module, steps),
                    "size_percent": 100 * elements(module) / whole,
                    "size_percent_of_language": 100 * (1 - gone / whole_part),
                    "size_percent_paper": size, "flops_percent": 100 * run(module, steps) / whole_flops,
                    "flops_percent_paper": share,
                }
            )  # fmt: skip
    return found


def shown(found: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| family | cut | parameters | size, all that acts | size, minus / language stack | size, paper | FLOPs | "
        "FLOPs, paper |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        if "size_percent" not in row:
            lines.append(f"| {row['family']} | none | {row['parameters'] / 1e9:.2f} G | 100 | 100 | 100 | 100 | 100 |")
            continue
        lines.append(
            f"| {row['family']} | {row['cut']} | {row['parameters'] / 1e9:.2f} G | {row['size_percent']:.1f} | "
            f"{row['size_percent_of_language']:.1f} | {row['size_percent_paper']} | {row['flops_percent']:.1f} | "
            f"{row['flops_percent_paper']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flow-steps", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = [row for family in FAMILIES for row in rows(family, given.flow_steps)]
    print(shown(found))
    if given.json is not None:
        given.json.write_text(json.dumps({"schema": "dropgate.size_table/1", "rows": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
