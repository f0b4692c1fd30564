# SPDX-License-Identifier: Apache-2.0
"""Physical values <-> model range: q01/q99, min/max, mean/std or identity, per dimension, with an optional mask.

Every method is the affine map `model = (physical - offset) / scale`, so that invert is exact and training code can read
`offset` and `scale` and do the same. Nothing is clipped. A dimension whose spread is below `MIN_SPREAD` is only centred
(scale 1): dividing by its spread would blow sensor noise up to full range. Masked-out dimensions pass through
unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.contract.conventions import NormMethod
from runtime.contract.tensors import dump_tensors, parse_tensors
from runtime.errors import ContractError

MIN_SPREAD = 1e-6
STATISTICS: dict[NormMethod, tuple[str, str]] = {
    NormMethod.Q01_Q99: ("q01", "q99"),
    NormMethod.MIN_MAX: ("min", "max"),
    NormMethod.MEAN_STD: ("mean", "std"),
    NormMethod.IDENTITY: ("zero", "one"),
}


@dataclass(frozen=True, eq=False)
class Normalization:
    """One method and its two statistics, each shape (D,), in physical units; `mask` (D,) is True where it applies.

    Raises ContractError for NaN, unequal shapes, q99 < q01, max < min or negative std.
    """

    method: NormMethod
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", NormMethod(self.method))
        first_name, second_name = STATISTICS[self.method]
        first, second = _vector(self.first, first_name), _vector(self.second, second_name)
        mask = np.array(self.mask)
        if mask.dtype != np.bool_ or not first.shape == second.shape == mask.shape:
            found = f"{first.shape}, {second.shape}, mask {mask.shape} {mask.dtype}"
            raise ContractError(
                f"Normalization[{self.method.value}]: found {found}, expected three equal shapes, mask bool"
            )
        lower = np.zeros_like(first) if self.method is NormMethod.MEAN_STD else first
        if (second < lower).any():
            dims = np.flatnonzero(second < lower).tolist()
            raise ContractError(f"Normalization[{self.method.value}]: {second_name} is too small in dimensions {dims}")
        for name, array in (("first", first), ("second", second), ("mask", mask)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def of(
        cls, method: NormMethod, first: ArrayLike, second: ArrayLike, mask: ArrayLike | None = None
    ) -> Normalization:
        """Build from statistics as `method` names them: (q01, q99), (min, max) or (mean, std).

        `mask` None means all True.
        """
        first_array = np.asarray(first, dtype=np.float64)
        full = np.ones(first_array.shape, dtype=np.bool_)
        chosen = full if mask is None else np.asarray(mask, dtype=np.bool_)
        return cls(method, first_array, np.asarray(second, dtype=np.float64), chosen)

    @classmethod
    def identity(cls, dim: int) -> Normalization:
        """Physical and model range are the same, for `dim` dimensions."""
        return cls.of(NormMethod.IDENTITY, np.zeros(dim), np.ones(dim))

    @property
    def dim(self) -> int:
        """Number of dimensions D."""
        return int(self.first.shape[0])

    @property
    def offset(self) -> NDArray[np.float64]:
        """Physical value that maps to model 0, shape (D,)."""
        if self.method is NormMethod.IDENTITY:
            return np.zeros(self.dim)
        centre = self.first if self.method is NormMethod.MEAN_STD else (self.first + self.second) / 2.0
        return np.where(self.mask, centre, 0.0)

    @property
    def scale(self) -> NDArray[np.float64]:
        """Physical size of one model unit, shape (D,), always positive."""
        if self.method is NormMethod.IDENTITY:
            return np.ones(self.dim)
        spread = self.second if self.method is NormMethod.MEAN_STD else (self.second - self.first) / 2.0
        return np.where(self.mask & (spread >= MIN_SPREAD), spread, 1.0)

    def apply(self, physical: NDArray[Any]) -> NDArray[np.float32]:
        """Physical (..., D) -> model range (..., D), float32, not clipped.

        ContractError on shape or non-finite values.
        """
        return self._single((self._checked(physical) - self.offset) / self.scale)

    def invert(self, model: NDArray[Any]) -> NDArray[np.float32]:
        """Model range (..., D) -> physical (..., D), float32; exact inverse of `apply` up to rounding."""
        return self._single(self._checked(model) * self.scale + self.offset)

    def _single(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        limit = float(np.finfo(np.float32).max)
        if (np.abs(values) > limit).any():
            raise ContractError(
                f"Normalization[{self.method.value}]: result is beyond float32, expected |x| <= {limit:.3g}"
            )
        return values.astype(np.float32)

    def _checked(self, values: NDArray[Any]) -> NDArray[np.float64]:
        array = np.asarray(values, dtype=np.float64)
        if not np.isfinite(array).all():
            raise ContractError(f"Normalization[{self.method.value}]: found NaN or infinity, expected finite numbers")
        if array.ndim == 0 or array.shape[-1] != self.dim:
            raise ContractError(
                f"Normalization[{self.method.value}]: found shape {array.shape}, expected (..., {self.dim})"
            )
        return array


@dataclass(frozen=True, eq=False)
class Normalizers:
    """The normalisations of one policy: state (S,) and action (D,); one `normalization.safetensors`."""

    state: Normalization
    action: Normalization

    def to_bytes(self) -> bytes:
        """Bytes of `normalization.safetensors`: tensors `state.<statistic>`, `state.mask`, `action...`.

        Deterministic.
        """
        tensors: dict[str, NDArray[Any]] = {}
        for part, norm in (("state", self.state), ("action", self.action)):
            first_name, second_name = STATISTICS[norm.method]
            tensors |= {
                f"{part}.{first_name}": norm.first,
                f"{part}.{second_name}": norm.second,
                f"{part}.mask": norm.mask,
            }
        return dump_tensors(tensors)

    @classmethod
    def from_bytes(
        cls, data: bytes, state: NormMethod, action: NormMethod, where: str = "normalization"
    ) -> Normalizers:
        """Read back with the methods that the manifest declares; ContractError names missing or unknown tensors."""
        tensors = parse_tensors(data, where)
        methods = {"state": state, "action": action}
        expected = {f"{part}.{name}" for part, method in methods.items() for name in (*STATISTICS[method], "mask")}
        if set(tensors) != expected:
            raise ContractError(f"{where}: found tensors {sorted(tensors)}, expected {sorted(expected)}")
        return cls(_part(tensors, "state", state), _part(tensors, "action", action))


def _part(tensors: Mapping[str, NDArray[Any]], part: str, method: NormMethod) -> Normalization:
    first_name, second_name = STATISTICS[method]
    mask = tensors[f"{part}.mask"]
    return Normalization(method, tensors[f"{part}.{first_name}"], tensors[f"{part}.{second_name}"], mask)


def _vector(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ContractError(f"Normalization {name}: found NaN or infinity, expected finite numbers")
    if array.ndim != 1 or array.size == 0:
        raise ContractError(f"Normalization {name}: found shape {array.shape}, expected (D,) with D >= 1")
    return array
