# SPDX-License-Identifier: Apache-2.0
"""What a published OpenVLA-OFT policy sees and commands: `policy_io.json` for the robot, the published statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.models.base import ModelError
from compress.models.checkpoint import read_bytes, read_json
from compress.models.openvla_oft_config import TEMPLATE
from compress.models.policy_io import FILE, PolicyIo
from runtime.contract.action import ActionSpec
from runtime.contract.codec import decode
from runtime.contract.conventions import NormMethod
from runtime.contract.normalization import STATISTICS as FIELDS
from runtime.contract.normalization import Normalization, Normalizers
from runtime.contract.spec import ObservationSpec, PromptSpec
from runtime.errors import ContractError

STATISTICS = "dataset_statistics.json"
PARTS = {"state": "proprio", "action": "action"}  # ours -> upstream's


def read_io(folder: Path, key: str | None) -> PolicyIo:
    """Specs out of `policy_io.json`, normalisation out of `dataset_statistics.json`.

    `policy_io.json` has `observation`, `action` and `prompt`, and may have `normalization` (`{"state": "min_max",
    "action": "min_max"}`; q01_q99 if absent, as for LIBERO and Bridge) and `statistics_key`.

    Raises:
        ModelError: a file is missing or damaged, or it is not clear which data set's statistics apply.
    """
    path = folder / FILE
    if not path.is_file():
        raise ModelError(
            f"{path} is missing: write the observation, action and prompt specs of the robot there (published prompt "
            f"template: {TEMPLATE!r})"
        )
    data = read_json(path)
    try:
        observation = decode(ObservationSpec, data["observation"], f"{path}: observation")
        action = decode(ActionSpec, data["action"], f"{path}: action")
        prompt = decode(PromptSpec, data["prompt"], f"{path}: prompt")
        methods = {part: NormMethod(data.get("normalization", {}).get(part, NormMethod.Q01_Q99)) for part in PARTS}
    except (KeyError, ValueError, AttributeError, ContractError) as error:
        raise ModelError(f"{path} does not say what the policy sees and commands ({error})") from error
    table = statistics(folder, key or data.get("statistics_key"))
    state, command = (_normalization(table, part, methods[part], folder / STATISTICS) for part in PARTS)
    return PolicyIo(
        observation, action, prompt, Normalizers(state, command), read_bytes(folder / prompt.tokenizer_file)
    )


def statistics(folder: Path, key: str | None) -> Mapping[str, Any]:
    """One data set's table. Raises ModelError that lists the keys."""
    path = folder / STATISTICS
    data = read_json(path)
    if key is None and len(data) == 1:
        key = next(iter(data))
    if key not in data:
        what = "which data set's statistics apply is not said" if key is None else f"no statistics of {key!r}"
        raise ModelError(f"{path}: {what}; available: {', '.join(sorted(data))}. Give one of them as statistics_key")
    found: Mapping[str, Any] = data[key]
    return found


def _normalization(table: Mapping[str, Any], part: str, method: NormMethod, where: Path) -> Normalization:
    """Masked-out dimensions pass unchanged, as upstream leaves them."""
    try:
        found = table[PARTS[part]]
        if method is NormMethod.IDENTITY:
            return Normalization.identity(len(found["mean"]))
        first, second = (found[name] for name in FIELDS[method])
        return Normalization.of(method, first, second, found.get("mask"))
    except (KeyError, TypeError, ValueError, ContractError) as error:
        raise ModelError(f"{where}: no {method.value} statistics of {PARTS[part]!r} ({error})") from error
