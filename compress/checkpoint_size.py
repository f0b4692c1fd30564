# SPDX-License-Identifier: Apache-2.0
"""How big a checkpoint is, by the headers of its safetensors files: no weight is read, and torch is not needed.

Stacks are found by their names (equal blocks under numbers), tokens by the patch size in the weights and by what the
policy sees (`policy_io.json`).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
BLOCK = re.compile(r"^(.*?)\.(\d+)\.(.+)$")
KINDS = (("vision", ("vis", "dino", "siglip", "featurizer")), ("action", ("expert", "dit", "action", "head.")))
MERGED = {"reference": 4, "smolvla": 16, "groot_n17": 4}  # patches of a camera that become one token; others: 1
COMPUTED_IN = {"reference": 4}  # bytes; its adapter widens what it reads, others keep it
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]


class SizeError(ValueError):
    """A checkpoint whose size cannot be told."""


@dataclass(frozen=True)
class Stack:
    """Equal blocks: how many, their width and MLP width, numbers in each one's matrices, sum of the matrices' sides."""

    name: str
    kind: str
    blocks: float
    width: int
    inner: int
    gated: bool
    matrices: int
    sides: int
    tokens: int


@dataclass(frozen=True)
class Sizes:
    """A checkpoint: numbers, bytes, bytes of most numbers, and its stacks."""

    parameters: float
    bytes: float
    width: int
    stacks: tuple[Stack, ...]

    @property
    def forward_flops(self) -> float:
        """Of one sample."""
        return sum(2.0 * s.matrices * s.blocks * s.tokens for s in self.stacks)


def sizes(folder: Path, family: str) -> Sizes:
    """Read headers only.

    Raises:
        SizeError: no safetensors files, or a damaged header.
    """
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name != "normalization.safetensors":
            tensors |= _header(path)
    other = sum(path.stat().st_size for path in folder.glob("*.pt"))
    if not tensors:
        raise SizeError(f"{folder}: found no safetensors file, whose header would say how big the policy is")
    count = {name: math.prod(shape) for name, (_, shape) in tensors.items()}
    width = Counter({kind: 0 for kind, _ in tensors.values()})
    for name, (kind, _) in tensors.items():
        width[kind] += count[name]
    total: float = sum(count[name] * BYTES.get(kind, 1) for name, (kind, _) in tensors.items()) + other
    most, numbers = BYTES.get(width.most_common(1)[0][0], 4), sum(count.values()) + other / 4
    if family in COMPUTED_IN:
        most, total = COMPUTED_IN[family], numbers * COMPUTED_IN[family]
    return Sizes(numbers, total, most, _stacks(tensors, folder, family))


def _header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return {n: (str(t["dtype"]), tuple(t["shape"])) for n, t in found.items() if n != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise SizeError(f"{path} has no readable header ({error}): copy the checkpoint again") from error


def _stacks(tensors: Shapes, folder: Path, family: str) -> tuple[Stack, ...]:
    blocks: dict[str, dict[int, dict[str, tuple[int, ...]]]] = defaultdict(lambda: defaultdict(dict))
    for name, (_, shape) in tensors.items():
        found = BLOCK.match(name)
        if found:
            blocks[found[1]][int(found[2])][found[3]] = shape
    patch = {path.rpartition(".")[0]: s[-1] for path, (_, s) in tensors.items() if len(s) > 3}
    counts = _tokens(folder, family, patch, any(_kind(p) == "action" and len(b) > 2 for p, b in blocks.items()))
    made = []
    for prefix, members in blocks.items():
        flat = [shape for shape in members[min(members)].values() if len(shape) == 2]
        if len(flat) >= 4:
            width = Counter(side for shape in flat for side in shape).most_common(1)[0][0]
            wide = [shape for name, shape in members[min(members)].items() if len(shape) == 2 and "norm" not in name]
            inner = max(max(shape) for shape in wide)
            gated = sum(set(shape) == {inner, width} for shape in wide) > 2
            numbers = sum(math.prod(shape) for m in members.values() for shape in m.values() if len(shape) == 2)
            kind = _kind(prefix)
            sides = sum(map(sum, flat))
            per_block = round(numbers / len(members))
            made.append(Stack(prefix, kind, len(members), width, inner, gated, per_block, sides, counts[kind]))
    return tuple(made)


def _kind(prefix: str) -> str:
    return next((kind for kind, words in KINDS if any(word in f"{prefix}." for word in words)), "language")


def _tokens(folder: Path, family: str, patch: Mapping[str, int], flow: bool) -> dict[str, int]:
    """Tokens of one sample by kind of stack; without a `policy_io.json`, two 224 px cameras and usual lengths."""
    cameras, side, words, horizon, dims = 2, 224, 64, 50 if flow else 8, 7
    for name in ("policy_io.json", "config.json"):
        try:
            data = json.loads((folder / name).read_text())
        except (OSError, ValueError):
            continue
        if "observation" in data:
            cameras, side = len(data["observation"]["images"]), int(data["observation"]["images"][0]["height"])
            words, horizon = int(data["prompt"]["max_tokens"]), int(data["action"]["horizon"])
            break
        if family == "reference":
            cameras, side, words, horizon = (
                len(data["cameras"]), data["image_size"], data["max_tokens"], data["horizon"],
            )  # fmt: skip
    patches = cameras * (side // max([*patch.values(), 1]) if patch else 16) ** 2
    slots = 0 if flow else horizon * (dims if family == "openvla_oft" else 1)
    return {"vision": patches, "language": patches // MERGED.get(family, 1) + words + slots, "action": horizon + 1}
