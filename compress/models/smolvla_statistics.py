# SPDX-License-Identifier: Apache-2.0
"""How a LeRobot folder of a SmolVLA normalises state and action, and what the robot adds to it.

Statistics lie beside the weights (`policy_preprocessor.json` names the file) or, in older folders, among them. Those of
a policy trained on several data sets at once belong to no robot: then `normalization.safetensors` must be given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from compress.models.base import ModelError
from compress.models.checkpoint import inside, read_json, read_safetensors
from compress.models.policy_io import FILE, PolicyIo
from runtime.contract.action import ActionSpec
from runtime.contract.codec import decode
from runtime.contract.conventions import NormMethod
from runtime.contract.graph import NORMALIZATION_FILE
from runtime.contract.normalization import MIN_SPREAD, STATISTICS, Normalization, Normalizers
from runtime.contract.spec import ObservationSpec, PromptSpec
from runtime.errors import ContractError

PREPROCESSOR = "policy_preprocessor.json"
STATE, ACTION = "observation.state", "action"
BUFFER = re.compile(r"^(?:un)?normalize_(?:inputs|targets|outputs)\.(.*?)buffer_(\w+)\.(\w+)$")
METHODS = {
    "MEAN_STD": NormMethod.MEAN_STD,
    "MIN_MAX": NormMethod.MIN_MAX,
    "QUANTILES": NormMethod.Q01_Q99,
    "IDENTITY": NormMethod.IDENTITY,
}
DEFAULT_METHODS = {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
Statistics = Mapping[str, Mapping[str, Tensor]]


def policy_io(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> PolicyIo:
    """`policy_io.json`, `tokenizer.json` and the layout's own statistics where it has one set of them.

    Args:
        folder: LeRobot's.
        config: its `config.json`.
        weights: all tensors of its `model.safetensors`.

    Raises:
        ModelError: a file is missing or damaged, or there are no usable statistics; the message says what to write.
    """
    path = folder / FILE
    found, methods = _among_weights(folder, weights), dict(config.get("normalization_mapping") or DEFAULT_METHODS)
    if not found and (folder / PREPROCESSOR).is_file():
        found, methods = _beside(folder, methods)
    if not {STATE, ACTION} <= set(found):
        if path.is_file() and not (folder / NORMALIZATION_FILE).is_file():
            several = sorted(name for name in found if name.endswith(ACTION))
            raise ModelError(
                f"{folder}: found statistics of {several or 'nothing'}, expected one set, of {STATE} and {ACTION}: "
                f"compute those of your robot's data and write them to {NORMALIZATION_FILE}"
            )
        return PolicyIo.load(folder)
    normalizers = Normalizers(
        _normalization(found[STATE], methods.get("STATE"), folder, STATE),
        _normalization(found[ACTION], methods.get("ACTION"), folder, ACTION),
    )
    try:
        data = read_json(path)
        prompt = decode(PromptSpec, data["prompt"], f"{path}: prompt")
        return PolicyIo(
            decode(ObservationSpec, data["observation"], f"{path}: observation"),
            decode(ActionSpec, data["action"], f"{path}: action"),
            prompt,
            normalizers,
            (folder / prompt.tokenizer_file).read_bytes(),
        )
    except (OSError, KeyError, TypeError, ValueError, ContractError) as error:
        raise ModelError(f"{path} cannot be read ({error}): say what the policy sees and commands") from error


def _among_weights(folder: Path, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Statistics by feature out of `normalize_inputs.buffer_observation_state.mean` and its like."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        match = BUFFER.match(name)
        if match is None:
            continue
        feature = match[1] + {"observation_state": STATE}.get(match[2], match[2])
        known = found.setdefault(feature, {}).setdefault(match[3], value.float())
        if not known.equal(value.float()):
            raise ModelError(f"{folder}: {name} differs from the same statistic elsewhere in the weights")
    return found


def _beside(folder: Path, methods: dict[str, Any]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Statistics by feature and method by feature type out of the preprocessor's normaliser."""
    path = folder / PREPROCESSOR
    steps = [s for s in read_json(path).get("steps", []) if s.get("registry_name") == "normalizer_processor"]
    if len(steps) != 1 or "state_file" not in steps[0]:
        raise ModelError(f"{path}: expected one `normalizer_processor` with a state_file, found {len(steps)} of them")
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in read_safetensors(inside(folder, str(steps[0]["state_file"]))).items():
        feature, _, statistic = name.rpartition(".")
        found.setdefault(feature, {})[statistic] = value.float()
    return found, dict(steps[0].get("config", {}).get("norm_map") or methods)


def _normalization(found: Mapping[str, Tensor], method: Any, folder: Path, feature: str) -> Normalization:
    if method not in METHODS:
        raise ModelError(f"{folder}: {feature} is normalised by {method!r}, expected one of {sorted(METHODS)}")
    kind = METHODS[method]
    if kind is NormMethod.IDENTITY:
        return Normalization.identity(int(next(iter(found.values())).numel()))
    names = STATISTICS[kind]
    missing = [name for name in names if name not in found]
    if missing:
        raise ModelError(f"{folder}: {method} of {feature} needs {list(names)}, found {sorted(found)}")
    try:
        made = Normalization.of(kind, *(found[name].numpy() for name in names))
    except ContractError as error:
        raise ModelError(f"{folder}: {method} of {feature} cannot be used ({error})") from error
    spread = made.second if kind is NormMethod.MEAN_STD else made.second - made.first
    still = np.flatnonzero(spread < MIN_SPREAD).tolist()
    if feature == ACTION and still:
        raise ModelError(
            f"{folder}: action dimensions {still} never move in the statistics (spread below {MIN_SPREAD}); LeRobot "
            "then commands their mean, which the contract cannot say: give them a real spread"
        )
    return made
