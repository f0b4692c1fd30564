# SPDX-License-Identifier: Apache-2.0
"""Columns of parquet files as arrays, and single pictures out of them. The only data reader that imports pyarrow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from compress.data.faults import DemoFileError


class Table:
    """Some columns of one file, in memory."""

    def __init__(self, path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> None:
        """Read `columns`, and of `optional` what is there.

        Raises:
            DemoFileError: missing or truncated file, or no such column.
        """
        self.path = path
        self._numbers: dict[str, np.ndarray] = {}
        self._plain: dict[str, list[Any]] = {}
        file = opened(path)
        have = file.schema_arrow.names
        missing = [name for name in columns if name not in have]
        if missing:
            raise DemoFileError(f"{path}: no column {', '.join(missing)}. Available: {', '.join(have)}")
        try:
            self._table = file.read([*columns, *(name for name in optional if name in have and name not in columns)])
        except (pa.ArrowException, OSError) as error:
            raise DemoFileError(f"{path} is damaged: {error}. Next: copy it again") from error

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __contains__(self, name: str) -> bool:
        return name in self._table.column_names

    def plain(self, name: str) -> list[Any]:
        """The values as Python objects."""
        if name not in self._plain:
            self._plain[name] = self._table.column(name).to_pylist()
        return self._plain[name]

    def integers(self, name: str) -> np.ndarray:
        """int64 (N,)."""
        return self.numbers(name)[:, 0].astype(np.int64)

    def is_text(self, name: str) -> bool:
        """Whether the column holds strings."""
        kind = self._table.column(name).type
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

    def numbers(self, name: str) -> np.ndarray:
        """(N, W); scalars have width 1.

        Raises:
            DemoFileError: empty cells, rows of different lengths, or no numbers.
        """
        if name not in self._numbers:
            self._numbers[name] = self._read_numbers(name)
        return self._numbers[name]

    def _read_numbers(self, name: str) -> np.ndarray:
        column = self._table.column(name)
        if column.null_count:
            raise DemoFileError(f"{self.path}: column {name} has {column.null_count} empty cells, expected numbers")
        kind, values = column.type, column.combine_chunks()
        if not _is_list(kind):
            return np.asarray(_numeric(self.path, name, values)).reshape(-1, 1)
        widths = set(pc.unique(pc.list_value_length(values)).to_pylist())
        if len(widths) > 1:
            raise DemoFileError(f"{self.path}: column {name} has rows of {sorted(widths)} numbers, expected one width")
        flat = np.asarray(_numeric(self.path, name, values.flatten()))
        return flat.reshape(len(values), next(iter(widths), 0))


class PictureColumn:
    """Pictures that lie inside a parquet file, one row group at a time in memory."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key, self._file = path, key, opened(path)
        sizes = [self._file.metadata.row_group(k).num_rows for k in range(self._file.num_row_groups)]
        self._ends, self._group, self._values = np.cumsum(sizes), -1, None

    def cell(self, row: int) -> Any:
        """`{bytes, path}` or bytes of a row of the file.

        Raises:
            DemoFileError: a damaged file.
        """
        group = int(np.searchsorted(self._ends, row, side="right"))
        try:
            if group != self._group:
                self._values = self._file.read_row_group(group, columns=[self.key]).column(0)
                self._group = group
            assert self._values is not None
            return self._values[row - (int(self._ends[group - 1]) if group else 0)].as_py()
        except (pa.ArrowException, OSError, IndexError) as error:
            raise DemoFileError(
                f"{self.path}: {self.key} in row {row} is damaged: {error}. Next: copy it again"
            ) from error


def opened(path: Path) -> pq.ParquetFile:
    """The file with its footer read.

    Raises:
        DemoFileError: missing, truncated or not parquet.
    """
    if not path.is_file():
        raise DemoFileError(f"{path}: no such file. Next: copy the data set completely")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DemoFileError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not parquet: {error}. Next: copy it again"
        ) from error


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _numeric(path: Path, name: str, values: Any) -> Any:
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DemoFileError(f"{path}: column {name} holds {kind}, expected numbers")
    return values.to_numpy(zero_copy_only=False)
