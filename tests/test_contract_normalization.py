# SPDX-License-Identifier: Apache-2.0
"""Normalisation laws: invert undoes apply, constants do not explode, masked dimensions pass, no NaN."""

from __future__ import annotations

import numpy as np
import pytest
from artifact_factory import normalizers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.contract.conventions import NormMethod
from runtime.contract.normalization import MIN_SPREAD, Normalization, Normalizers
from runtime.contract.tensors import dump_tensors, parse_tensors
from runtime.errors import ContractError

METHODS = [NormMethod.Q01_Q99, NormMethod.MIN_MAX, NormMethod.MEAN_STD]
NUMBERS = st.floats(-100.0, 100.0, width=32)


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    first=hnp.arrays(np.float64, 4, elements=NUMBERS),
    spread=hnp.arrays(np.float64, 4, elements=st.one_of(st.just(0.0), st.floats(1e-3, 100.0))),
    mask=hnp.arrays(np.bool_, 4),
    values=hnp.arrays(np.float32, (3, 4), elements=NUMBERS),
)
def test_invert_undoes_apply(method, first, spread, mask, values) -> None:
    second = spread if method is NormMethod.MEAN_STD else first + spread
    norm = Normalization.of(method, first, second, mask)
    model = norm.apply(values)
    assert np.isfinite(model).all()
    np.testing.assert_allclose(norm.invert(model), values, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(model[:, ~mask], values[:, ~mask])


@pytest.mark.parametrize("method", [NormMethod.Q01_Q99, NormMethod.MIN_MAX])
def test_range_ends_become_minus_one_and_one(method: NormMethod) -> None:
    norm = Normalization.of(method, [-2.0, 0.0], [4.0, 0.5])
    np.testing.assert_allclose(norm.apply(np.array([[-2.0, 0.0], [4.0, 0.5], [1.0, 0.25]])), [[-1, -1], [1, 1], [0, 0]])


def test_mean_and_std_become_zero_and_one() -> None:
    norm = Normalization.of(NormMethod.MEAN_STD, [3.0], [2.0])
    np.testing.assert_allclose(norm.apply(np.array([[3.0], [5.0]])), [[0.0], [1.0]])


def test_nothing_is_clipped() -> None:
    assert Normalization.of(NormMethod.MIN_MAX, [0.0], [1.0]).apply(np.array([3.0]))[0] == 5.0


@pytest.mark.parametrize("method", METHODS)
def test_constant_dimension_does_not_amplify_noise(method: NormMethod) -> None:
    norm = Normalization.of(method, [5.0], [MIN_SPREAD / 10 if method is NormMethod.MEAN_STD else 5.0])
    assert abs(norm.apply(np.array([5.001]))[0]) < 0.01


def test_identity_changes_nothing() -> None:
    values = np.array([[1.5, -2.0]], dtype=np.float32)
    np.testing.assert_array_equal(Normalization.identity(2).apply(values), values)


@pytest.mark.parametrize("values", [np.array([np.nan, 0.0]), np.array([np.inf, 0.0])])
def test_non_finite_values_are_refused_both_ways(values: np.ndarray) -> None:
    norm = Normalization.identity(2)
    for direction in (norm.apply, norm.invert):
        with pytest.raises(ContractError, match=r"Normalization\[identity\]: found NaN or infinity"):
            direction(values)


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((2, 1)), np.float64(1.0)])
def test_wrong_width_is_refused_not_broadcast(values: np.ndarray) -> None:
    with pytest.raises(ContractError, match=r"found shape .*, expected \(\.\.\., 2\)"):
        Normalization.identity(2).apply(values)


REFUSALS = {
    "nan": (([np.nan], [1.0]), r"Normalization q01: found NaN or infinity"),
    "order": (([0.0, 2.0], [1.0, 1.0]), r"Normalization\[q01_q99\]: q99 is too small in dimensions \[1\]"),
    "shapes": (([0.0], [1.0, 2.0]), r"expected three equal shapes"),
    "mask shape": (([0.0], [1.0], [True, True]), r"found .* mask \(2,\) bool, expected three equal shapes"),
    "matrix": (([[0.0]], [[1.0]]), r"found shape \(1, 1\), expected \(D,\)"),
    "empty": (([], []), r"found shape \(0,\), expected \(D,\) with D >= 1"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_wrong_statistics_are_refused(name: str) -> None:
    arguments, message = REFUSALS[name]
    with pytest.raises(ContractError, match=message):
        Normalization.of(NormMethod.Q01_Q99, *arguments)


def test_negative_std_is_refused() -> None:
    with pytest.raises(ContractError, match="std is too small"):
        Normalization.of(NormMethod.MEAN_STD, [0.0], [-1.0])


def test_statistics_are_read_only_copies() -> None:
    source = np.zeros(2)
    norm = Normalization.of(NormMethod.MIN_MAX, source, source + 1.0)
    source[0] = 9.0
    assert norm.first[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        norm.first[0] = 1.0


def test_normalizers_survive_their_file() -> None:
    data = normalizers().to_bytes()
    assert data == normalizers().to_bytes()
    back = Normalizers.from_bytes(data, NormMethod.Q01_Q99, NormMethod.Q01_Q99)
    for part in ("state", "action"):
        for field in ("first", "second", "mask"):
            np.testing.assert_array_equal(
                getattr(getattr(back, part), field), getattr(getattr(normalizers(), part), field)
            )


def test_declared_method_must_match_stored_tensors() -> None:
    with pytest.raises(ContractError, match=r"n.st: found tensors .*'state.q01'.*, expected .*'state.mean'"):
        Normalizers.from_bytes(normalizers().to_bytes(), NormMethod.MEAN_STD, NormMethod.Q01_Q99, "n.st")


def test_tensor_files_are_deterministic_and_read_only() -> None:
    tensors = {"b": np.arange(3), "a": np.ones((2, 2), dtype=np.float32), "c": np.array([True])}
    data = dump_tensors(tensors)
    assert data == dump_tensors(dict(reversed(tensors.items())))
    back = parse_tensors(data, "t")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)
        assert back[name].dtype == tensor.dtype
        assert not back[name].flags.writeable


def test_non_contiguous_tensor_is_stored_by_value() -> None:
    tensor = np.arange(6).reshape(2, 3).T
    np.testing.assert_array_equal(parse_tensors(dump_tensors({"t": tensor}), "t")["t"], tensor)


def test_nan_is_refused_on_write_and_on_read() -> None:
    import safetensors.numpy

    bad = {"t": np.array([np.nan])}
    with pytest.raises(ContractError, match="tensor 't': found NaN or infinity"):
        dump_tensors(bad)
    with pytest.raises(ContractError, match=r"file.st: tensor 't' holds NaN or infinity"):
        parse_tensors(safetensors.numpy.save(bad), "file.st")


@pytest.mark.parametrize("cut", [0, 4, 40, -1])
def test_truncated_tensor_file_is_named(cut: int) -> None:
    with pytest.raises(ContractError, match=r"weights.st: not a readable safetensors file"):
        parse_tensors(dump_tensors({"t": np.zeros(9)})[:cut], "weights.st")
