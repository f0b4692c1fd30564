# SPDX-License-Identifier: Apache-2.0
"""The statistics that published pi0 and pi0.5 checkpoints carry, and the robot's conventions that they do not.

Publishers add a small number to the spread (openpi 1e-6, LeRobot 1e-8 where it is zero). A dimension that never moved
keeps the tiny spread that they give it: its only value must still become -1 (quantiles) or 0 (mean and deviation), and
a command must still come out as that value.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.models.base import ModelError
from compress.models.checkpoint import inside, read_bytes, read_json, read_safetensors
from compress.models.policy_io import FILE, PolicyIo
from runtime.contract.action import ActionSpec
from runtime.contract.codec import decode
from runtime.contract.conventions import NormMethod
from runtime.contract.normalization import MIN_SPREAD, STATISTICS, Normalization, Normalizers
from runtime.contract.spec import ObservationSpec, PromptSpec
from runtime.errors import ContractError

OPENPI_SPREAD = 1e-6
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
PROCESSOR = "processor_config.json"
MODES = {  # LeRobot's NormalizationMode
    "MEAN_STD": NormMethod.MEAN_STD,
    "MIN_MAX": NormMethod.MIN_MAX,
    "QUANTILES": NormMethod.Q01_Q99,
    "IDENTITY": NormMethod.IDENTITY,
}
Array = NDArray[np.float64]
Statistics = Mapping[str, Array]


def robot(folder: Path, method: NormMethod) -> PolicyIo:
    """`policy_io.json` and the tokenizer beside a published checkpoint, with the statistics that the layout carries.

    Args:
        folder: of the checkpoint.
        method: what openpi uses for this family; LeRobot's layout says it itself.

    Raises:
        ModelError: a file is missing or damaged, or the statistics do not fit the specs.
    """
    path = folder / FILE
    if not path.is_file():
        raise ModelError(
            f"{path} is missing: a published checkpoint does not say what the robot sees and commands. Write "
            f"{FILE} (observation, action, prompt, normalization) and tokenizer.json beside the weights"
        )
    data = read_json(path)
    try:
        observation = decode(ObservationSpec, data["observation"], f"{path}: observation")
        action = decode(ActionSpec, data["action"], f"{path}: action")
        prompt = decode(PromptSpec, data["prompt"], f"{path}: prompt")
        found = _published(folder, observation.state.dim, action.dim, method)
    except (KeyError, TypeError, ContractError) as error:
        raise ModelError(f"{path} cannot be read ({error}): say what the policy sees and commands") from error
    if found is None:
        return PolicyIo.load(folder)
    return PolicyIo(observation, action, prompt, found, read_bytes(folder / prompt.tokenizer_file))


def _published(folder: Path, state: int, action: int, method: NormMethod) -> Normalizers | None:
    """Statistics in whichever of the three layouts is there; None: there are none."""
    assets = sorted((folder / "assets").rglob("norm_stats.json"))
    if (folder / PREPROCESSOR).is_file():
        return _of_lerobot(folder, state, action)
    if len(assets) > 1:
        raise ModelError(f"{folder}: found statistics of {len(assets)} robots, {list(map(str, assets))}; leave one")
    if assets:
        return _of_openpi(assets[0], state, action, method)
    return _of_transformers(folder / PROCESSOR, state, action) if (folder / PROCESSOR).is_file() else None


def _of_openpi(path: Path, state: int, action: int, method: NormMethod) -> Normalizers:
    data = read_json(path).get("norm_stats")
    if not isinstance(data, dict) or not {"state", "actions"} <= set(data):
        raise ModelError(f"{path}: expected statistics of `state` and `actions`, found {data and sorted(data)}")
    parts = []
    for name, dim in (("state", state), ("actions", action)):
        statistics = {key: np.array(value, np.float64) for key, value in data[name].items() if value is not None}
        parts.append(_normalization(method, statistics, dim, OPENPI_SPREAD, f"{path}: {name}"))
    return Normalizers(*parts)


def _of_lerobot(folder: Path, state: int, action: int) -> Normalizers:
    method, statistics = _step(folder / PREPROCESSOR, "normalizer_processor")
    where = f"{folder / PREPROCESSOR}:"
    if (folder / POSTPROCESSOR).is_file():
        out_method, out = _step(folder / POSTPROCESSOR, "unnormalizer_processor")
        same = all(np.array_equal(out.get(key, value), value) for key, value in statistics.items() if "action" in key)
        if not same or out_method.get("ACTION") != method.get("ACTION"):
            raise ModelError(
                f"{folder}: {PREPROCESSOR} and {POSTPROCESSOR} scale actions differently: which one trained the policy?"
            )
    parts = []
    for kind, key, dim in (("STATE", "observation.state", state), ("ACTION", "action", action)):
        mode = method.get(kind, "IDENTITY")
        if mode not in MODES:
            raise ModelError(f"{where} {kind} is normalised by {mode!r}, expected one of {', '.join(MODES)}")
        mine = {name.removeprefix(f"{key}."): value for name, value in statistics.items() if name.startswith(f"{key}.")}
        parts.append(_normalization(MODES[mode], mine, dim, 0.0, f"{where} {key}"))
    return Normalizers(*parts)


def _step(path: Path, kind: str) -> tuple[dict[str, str], dict[str, Array]]:
    """The normalising step of a LeRobot pipeline: method per feature type, statistics by `<feature>.<statistic>`."""
    steps = read_json(path).get("steps")
    found = [s for s in steps if isinstance(s, dict) and s.get("registry_name") == kind] if steps else []
    try:
        (step,) = found
        method, file = dict(step["config"]["norm_map"]), str(step["state_file"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: found {len(found)} steps `{kind}` with statistics, expected one ({error})"
        ) from error
    return method, {name: value.double().numpy() for name, value in read_safetensors(inside(path.parent, file)).items()}


def _of_transformers(path: Path, state: int, action: int) -> Normalizers | None:
    data: dict[str, Any] = read_json(path)
    names = ("state_mean", "state_std", "actions_mean", "actions_std")
    if not all(data.get(name) for name in names):
        return None
    values = {name: np.array(data[name], np.float64) for name in names}
    return Normalizers(
        *(
            _normalization(
                NormMethod.MEAN_STD, {k: values[f"{part}_{k}"] for k in ("mean", "std")}, dim, 0.0, f"{path}: {part}"
            )
            for part, dim in (("state", state), ("actions", action))
        )
    )


def _normalization(method: NormMethod, found: Statistics, dim: int, added: float, where: str) -> Normalization:
    """From published statistics, cut to the robot's dimensions (publishers may store them padded)."""
    if method is NormMethod.IDENTITY:
        return Normalization.identity(dim)
    names = STATISTICS[method]
    missing = [name for name in names if name not in found or found[name].ndim != 1 or len(found[name]) < dim]
    if missing:
        shapes = {name: value.shape for name, value in found.items()}
        raise ModelError(f"{where}: expected {' and '.join(names)} of at least {dim} dimensions, found {shapes}")
    first, second = (found[name][:dim] for name in names)
    if method is NormMethod.MEAN_STD:
        return Normalization.of(method, first, np.maximum(second + added, MIN_SPREAD))
    return Normalization.of(method, first, np.maximum(second + added, first + 2.001 * MIN_SPREAD))
