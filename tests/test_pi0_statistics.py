# SPDX-License-Identifier: Apache-2.0
"""Published statistics of pi0 and pi0.5 become affine maps that do what the publisher's own formulas do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from family_pi0 import make
from family_pi05 import make as make05
from pi_publisher import ACTION, STATE, mean_std, openpi_names, quantiles, write_lerobot, write_openpi

from compress.models.base import ModelError
from compress.models.pi0 import Pi0Vla
from compress.models.pi05 import Pi05Vla
from runtime.contract.normalization import Normalizers


def openpi_quantiles(folder: Path, statistics: dict[str, dict[str, list[float]]]) -> Normalizers:
    write_openpi(make05(0), folder, openpi_names(statistics))
    return Pi05Vla.load(folder).io.normalizers


def test_openpi_quantiles(tmp_path: Path) -> None:
    """(x - q01) / (q99 - q01 + 1e-6) * 2 - 1 and back, as openpi's `transforms.py` says."""
    statistics = quantiles(1)
    found = openpi_quantiles(tmp_path, statistics).action
    low, high = (np.array(statistics[ACTION][name]) for name in ("q01", "q99"))
    x = np.linspace(-3, 3, 35).reshape(5, 7)
    np.testing.assert_allclose(found.apply(x), (x - low) / (high - low + 1e-6) * 2 - 1, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.invert(x), (x + 1) / 2 * (high - low + 1e-6) + low, rtol=1e-6, atol=1e-6)


def test_a_dimension_that_never_moved_keeps_its_published_value(tmp_path: Path) -> None:
    """Its only value is -1 in model range (bin 0 of a prompt), and any answer of the model is that value."""
    statistics = quantiles(1)
    for name in (STATE, ACTION):
        statistics[name]["q99"][2] = statistics[name]["q01"][2] = 0.75
    found = openpi_quantiles(tmp_path, statistics)
    state = np.zeros(8)
    state[2] = 0.75
    assert found.state.apply(state)[2] == pytest.approx(-1.0, abs=1e-2)
    answers = found.action.invert(np.linspace(-1, 1, 35).reshape(5, 7))
    np.testing.assert_allclose(answers[:, 2], 0.75, atol=1e-5)


def test_a_deviation_of_zero_is_centred(tmp_path: Path) -> None:
    statistics = mean_std(1)
    statistics[ACTION]["std"][6], statistics[ACTION]["mean"][6] = 0.0, 0.4
    write_lerobot(make(0), tmp_path, "MEAN_STD", statistics)
    found = Pi0Vla.load(tmp_path).io.normalizers.action
    np.testing.assert_allclose(found.invert(np.full((1, 7), 3.0))[0, 6], 0.4, atol=1e-5)


def test_padded_statistics_are_cut_to_the_robot(tmp_path: Path) -> None:
    """openpi may have computed them behind its padding to 32 dimensions."""
    padded = openpi_quantiles(tmp_path / "padded", quantiles(5, state=32, action=32))
    assert (padded.state.dim, padded.action.dim) == (8, 7)
    np.testing.assert_allclose(padded.state.first, quantiles(5, state=32, action=32)[STATE]["q01"][:8])


def test_too_few_dimensions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="at least 7 dimensions"):
        openpi_quantiles(tmp_path, quantiles(5, action=6))


def test_statistics_without_quantiles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected q01 and q99"):
        openpi_quantiles(tmp_path, mean_std(5))


def test_statistics_must_name_state_and_actions(tmp_path: Path) -> None:
    write_openpi(make(0), tmp_path, openpi_names(mean_std(1)))
    path = next(tmp_path.rglob("norm_stats.json"))
    data = json.loads(path.read_text())["norm_stats"]
    path.write_text(json.dumps({"norm_stats": {"state": data["state"]}}))
    with pytest.raises(ModelError, match=r"expected statistics of `state` and `actions`, found \['state'\]"):
        Pi0Vla.load(tmp_path)
    path.write_text(json.dumps(data))
    with pytest.raises(ModelError, match="found None"):
        Pi0Vla.load(tmp_path)


def test_a_pipeline_without_its_normaliser_is_refused(tmp_path: Path) -> None:
    write_lerobot(make(0), tmp_path, "MEAN_STD", mean_std(1))
    (tmp_path / "policy_preprocessor.json").write_text('{"steps": [{"registry_name": "other"}]}')
    with pytest.raises(ModelError, match="found 0 steps `normalizer_processor`"):
        Pi0Vla.load(tmp_path)
