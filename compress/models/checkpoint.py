# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders, read strictly: every tensor there, none too many, none of another shape, none that is not finite.

Upstream loaders have returned random weights with a warning; here a misfit is an error that names the tensors. Only
safetensors are read, except for published `.pt` state dicts, which go through torch's restricted unpickler.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from compress.atomic import folder_atomic
from compress.models.base import BlockGroup, ModelError, Surgery
from compress.models.policy_io import PolicyIo
from compress.models.surgery import hollow, operate
from compress.torch_files import load_tensors

CONFIG, WEIGHTS, INDEX = "dropgate.json", "model.safetensors", "model.safetensors.index.json"
COPY = "copy the checkpoint again"


@dataclass(frozen=True)
class Checkpoint:
    """What DropGate's own checkpoint folder holds, for every family.

    Attributes:
        family: the adapter.
        config: its architecture *before* any removal, plain data.
        surgery: what was removed, by role.
        io: what goes in and comes out.
        side: other files, byte for byte, by name (`tokenizer.json`).
        hollow: dotted paths, in the whole module, of submodules that were removed because no action depends on them.
        weights: sha256 of the weights that were saved with it; empty for a policy in memory, and in folders from before
            there was one.
    """

    family: str
    config: Mapping[str, Any]
    surgery: Mapping[str, Surgery]
    io: PolicyIo
    side: Mapping[str, bytes] = field(default_factory=dict)
    hollow: tuple[str, ...] = ()
    weights: str = ""

    def save(self, folder: Path, module: nn.Module) -> None:
        """Write the folder atomically; tensors keep their dtypes.

        Raises:
            ModelError: a weight is NaN or infinite; nothing was written.
        """
        weights = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
        require_finite(weights, folder)
        with folder_atomic(folder) as work:
            header = {**self._header(), "weights": digest_of(weights)}
            (work / CONFIG).write_text(json.dumps(header, indent=2, sort_keys=True) + "\n")
            for name, data in {**self.side, **self.io.files()}.items():
                (work / name).write_bytes(data)
            save_file(weights, work / WEIGHTS)

    def identity(self, module: nn.Module) -> str:
        """sha256 over configuration, conventions, side files and weights."""
        digest = hashlib.sha256(json.dumps(self._header(), sort_keys=True).encode())
        for name, data in sorted({**self.side, **self.io.files()}.items()):
            digest.update(name.encode() + b"\0" + data)
        _feed(digest, module.state_dict())
        return digest.hexdigest()

    def _header(self) -> dict[str, Any]:
        surgery = {role: asdict(record) for role, record in sorted(self.surgery.items())}
        return {
            "family": self.family,
            "config": dict(self.config),
            "surgery": surgery,
            "side": sorted(self.side),
            "hollow": sorted(self.hollow),
        }

    @classmethod
    def load(cls, folder: Path, family: str) -> Checkpoint:
        """Read everything but the weights.

        Raises:
            ModelError: a file is missing or damaged, or the folder holds another family.
        """
        header = read_json(folder / CONFIG)
        if header.get("family") != family:
            raise ModelError(f"{folder / CONFIG}: family is {header.get('family')!r}, expected {family!r}")
        try:
            surgery = {
                role: Surgery(int(r["depth"]), tuple(r["kept"]), tuple(r["without_attention"]), tuple(r["without_mlp"]))
                for role, r in header["surgery"].items()
            }
            config, names, hollowed = dict(header["config"]), list(header["side"]), tuple(header["hollow"])
            weights = str(header.get("weights", ""))
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{folder / CONFIG} is not a checkpoint's header ({error}): {COPY}") from error
        side = {name: read_bytes(folder / name) for name in names}
        return cls(family, config, surgery, PolicyIo.load(folder), side, hollowed, weights)


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes and bytes; blocks that change places change it."""
    digest = hashlib.sha256()
    _feed(digest, weights)
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, weights: Mapping[str, Tensor]) -> None:
    for name, value in sorted(weights.items()):
        digest.update(f"{name}\0{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def require_saved(weights: Mapping[str, Tensor], promised: str, where: Path) -> None:
    """The weights are those that were saved beside their header; where it promises none, a warning.

    Raises:
        ModelError: they are not: tensors of equal shape were changed or have changed places.
    """
    if not promised:
        warnings.warn(
            f"{where} says nothing of its weights (written by an older version): exchanged blocks would go unseen. "
            "Next: compress convert, which writes it anew",
            stacklevel=3,
        )
    elif digest_of(weights) != promised:
        raise ModelError(
            f"{where}: these are not the weights that were saved with this header (their sha256 is another): tensors "
            f"were changed, or blocks have changed places; {COPY}"
        )


def is_own(folder: Path) -> bool:
    """Whether the folder was written by `Checkpoint.save` (and not by a family's own tools)."""
    return (folder / CONFIG).is_file()


def restore(
    module: nn.Module, groups: Iterable[BlockGroup], surgery: Mapping[str, Surgery], hollowed: Iterable[str] = ()
) -> None:
    """Cut a module that was built whole to what a checkpoint's header says, so that pruned weights fit it."""
    hollow(module, hollowed)
    for group in groups:
        if group.role in surgery:
            operate(module, group, Surgery.none(surgery[group.role].depth), surgery[group.role])


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, or of the shards that its index names.

    Raises:
        ModelError: a file is missing, truncated, holds other tensors than the index says, or a tensor is not finite.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file():
        weights = read_safetensors(single)
    elif index.is_file():
        weights = _shards(folder, read_json(index))
    else:
        raise ModelError(f"{folder}: neither {WEIGHTS} nor {INDEX} is there")
    require_finite(weights, folder)
    return weights


def _shards(folder: Path, index: Mapping[str, Any]) -> dict[str, Tensor]:
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{folder / INDEX}: found no `weight_map`: {COPY}")
    weights: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        found = read_safetensors(inside(folder, name))
        promised = {key for key, place in places.items() if place == name}
        if set(found) != promised:
            odd = sorted(set(found) ^ promised)
            raise ModelError(f"{folder / name}: tensors {odd[:3]} ({len(odd)}) differ from what {INDEX} says: {COPY}")
        weights |= found
    return weights


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, in their own dtypes. Raises ModelError."""
    try:
        with safe_open(path, framework="pt") as file:
            # copied: sums of mapped tensors depend in the last bit on where they lie in the file
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}): it is missing, truncated or damaged; {COPY}") from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A published `.pt` state dict, with `module.` prefixes taken off; nothing but tensors is unpickled.

    Raises:
        ModelError: the file holds code or other objects, is damaged, or a tensor is not finite.
    """
    try:
        found = load_tensors(path)
    except Exception as error:  # torch raises many classes: all mean that it is no plain state dict
        raise ModelError(f"{path} is not a plain state dict ({str(error).splitlines()[0]}): {COPY}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ModelError(f"{path}: expected a dict of tensors, found {type(found).__name__}")
    weights = {str(name).removeprefix("module."): value for name, value in found.items()}
    require_finite(weights, path)
    return weights


def fill(
    module: nn.Module, weights: Mapping[str, Tensor], where: Path, rename: Callable[[str], str | None] | None = None
) -> None:
    """Put the weights in place; the module takes their dtypes.

    Args:
        module: every persistent tensor of it must be given.
        weights: by published name.
        where: for the error.
        rename: published name -> name inside `module`; None for a tensor that is known not to be needed.

    Raises:
        ModelError: a tensor is missing, unknown, of another shape, or two take the same place.
    """
    named: dict[str, Tensor] = {}
    for published, value in weights.items():
        name = published if rename is None else rename(published)
        if name is None:
            continue
        if name in named:
            raise ModelError(f"{where}: two tensors are to become {name}, one of them {published}")
        named[name] = value
    expected = module.state_dict()
    missing, extra = sorted(set(expected) - set(named)), sorted(set(named) - set(expected))
    if missing or extra:
        raise ModelError(
            f"{where}: missing tensors {missing[:3]} ({len(missing)}), unknown tensors {extra[:3]} ({len(extra)}); "
            "the weights belong to another configuration, or were pruned without saying which blocks were kept"
        )
    for name, value in named.items():
        if value.shape != expected[name].shape:
            raise ModelError(
                f"{where}: {name} is {tuple(value.shape)}, the configuration expects {tuple(expected[name].shape)}"
            )
    module.load_state_dict(named, strict=True, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def sizes_of_others(published: Mapping[str, Tensor], taken: Mapping[str, Tensor]) -> dict[str, int]:
    """Elements of the published tensors that are not, as the very same object, among those taken."""
    own = {id(value) for value in taken.values()}
    return {name: value.numel() for name, value in published.items() if id(value) not in own}


def require_finite(weights: Mapping[str, Tensor], where: Path) -> None:
    """ModelError that names the first tensor with NaN or infinity."""
    bad = [name for name, value in weights.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise ModelError(f"{where}: tensor {bad[0]} (and {len(bad) - 1} more) holds NaN or infinity")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing: {COPY}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not JSON ({error}): {COPY}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def read_bytes(path: Path) -> bytes:
    """A side file. Raises ModelError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error}): {COPY}") from error


def inside(folder: Path, name: str) -> Path:
    """A file name out of a downloaded index, refused if it leads out of the folder."""
    if Path(name).name != name:
        raise ModelError(f"{folder}: the index names {name!r}, expected a plain file name")
    return folder / name
