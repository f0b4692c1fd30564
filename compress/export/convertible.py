# SPDX-License-Identifier: Apache-2.0
"""Does TensorRT take this graph, in the precision it is written in? Asked of the real builder, without a GPU.

TensorRT-RTX parses ONNX and builds engines on a CPU (optional package `tensorrt-rtx`). It is a gate on conversion, not
proof of the enterprise builder, of its kernels or of their speed: those are seen on the station alone. The engine is
thrown away. The builder runs in a process of its own, because native code that dies must not take a run with it.

Strongly typed means that precision is what the graph says, so that is compared: every layer may have only the floating
types of the ONNX node it came from, and multiplications are counted by type in both.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from compress.export.banned import FLOATS, Scanned, refuse_banned, scan
from compress.export.errors import ConvertError
from runtime.backends.tensorrt_build import BuildSettings, LayerFact, build, parse
from runtime.backends.tensorrt_library import TENSORRT_RTX, library, version_of
from runtime.contract.conventions import Precision
from runtime.errors import BackendError

Mode = Literal["auto", "require", "off"]
CONVERTS, NOT_CHECKED = "converts", "not checked"
MULTIPLIES = {  # ONNX operator -> the one layer that TensorRT makes of it
    "MatMul": "MATRIX_MULTIPLY",
    "Gemm": "MATRIX_MULTIPLY",
    "Conv": "CONVOLUTION",
    "ConvTranspose": "DECONVOLUTION",
    "Einsum": "EINSUM",
}
TYPE_OF = {Precision.FP32: "FLOAT", Precision.FP16: "HALF", Precision.BF16: "BF16"}  # int8 has both kinds
MISSING, REFUSED = 3, 4  # exit codes of the process that builds
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Convertibility:
    """The evidence.

    Attributes:
        status: `converts`, or `not checked`, which is never a pass; a graph that does not convert raises instead.
        why: of `not checked`.
        builder: library and version.
        layers: of the parsed network.
        dtypes: element type -> layer outputs of that type, over all layers.
        multiplies: layer kind -> floating type -> how many, equal in graph and network.
        kept_float32: ONNX operator -> nodes that compute in float32 although the graph multiplies in half precision.
    """

    status: str
    why: str = ""
    builder: str = ""
    layers: int = 0
    dtypes: Mapping[str, int] = field(default_factory=dict)
    multiplies: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    kept_float32: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `evidence/convertible.json`."""
        return asdict(self)

    def describe(self) -> str:
        """One line for people."""
        if self.status != CONVERTS:
            return f"TensorRT: {self.status} ({self.why})"
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.dtypes.items()))
        return f"TensorRT: {self.builder} builds it, {self.layers} layers ({kinds})"


def check(path: Path, mode: Mode = "auto", precision: Precision | None = None) -> Convertibility:
    """Parse and build `path` (weights beside it), strongly typed, in a process of its own.

    Args:
        path: any ONNX file.
        mode: `auto` says `not checked` where `tensorrt-rtx` is missing, `require` refuses then, `off` asks nobody.
        precision: that every matrix multiplication has to have; None takes what the graph says.

    Raises:
        ConvertError: names the node that TensorRT refuses, or what has another type than the graph says.
    """
    if mode == "off":
        return Convertibility(NOT_CHECKED, "nobody asked: export.convertible is off")
    refuse_banned(scan(path), path.name)
    wanted = [precision.value] if precision in TYPE_OF else []
    command = [sys.executable, "-m", "compress.export.convertible", str(path), *wanted]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise ConvertError(f"{path.name}: the builder has not ended after {TIMEOUT_S:.0f} s") from error
    if done.returncode == 0:
        return Convertibility(**json.loads(done.stdout.splitlines()[-1]))
    told = done.stderr.strip().splitlines()
    last = told[-1] if told else "no message"
    if done.returncode == MISSING and mode == "auto":
        return Convertibility(NOT_CHECKED, last)
    if done.returncode == -signal.SIGKILL and mode == "auto":
        return Convertibility(NOT_CHECKED, "the builder was killed, most likely for want of memory")
    if done.returncode in (MISSING, REFUSED):
        raise ConvertError(last)
    raise ConvertError(f"{path.name}: the builder's process ended with {done.returncode}: {last}")


def examine(path: Path, trt: Any, precision: Precision | None = None) -> Convertibility:
    """What `check` does in the other process, with a TensorRT module; raises ConvertError."""
    scanned = scan(path)
    refuse_banned(scanned, path.name)
    try:
        parsed = parse(trt, path)
        layers = tuple(parsed.layers())
        multiplies = compare(scanned, layers, path.name)
        if precision in TYPE_OF:
            _refuse_other_multiplications(scanned, TYPE_OF[precision], path.name)
        build(parsed, BuildSettings(timing_cache=False))
    except BackendError as error:
        raise ConvertError(str(error)) from error
    dtypes = Counter(kind for layer in layers for kind in layer.dtypes)
    builder = f"{trt.__name__} {version_of(trt)}"
    kept = _kept_float32(scanned, layers, multiplies)
    return Convertibility(CONVERTS, "", builder, len(layers), dict(sorted(dtypes.items())), multiplies, kept)


def compare(scanned: Scanned, layers: Iterable[LayerFact], where: str) -> dict[str, dict[str, int]]:
    """Multiplications by layer kind and type, after graph and network were found equal; ConvertError otherwise."""
    listed = tuple(layers)
    stray = [text for layer in listed for text in _stray(layer, scanned)]
    if stray:
        raise ConvertError(
            f"{where}: types that the graph does not have: {'; '.join(stray[:5])} ({len(stray)} in all); "
            "a strongly typed engine would not be the precision that was proven"
        )
    graph = _table((MULTIPLIES[n.op_type], _type_of(n, scanned)) for n in scanned.nodes.values() if _multiplies(n))
    kinds = set(MULTIPLIES.values())
    network = _table((layer.kind, layer.dtypes[0]) for layer in listed if layer.kind in kinds)
    if graph != network:
        raise ConvertError(f"{where}: TensorRT multiplies as {network}, the graph as {graph}")
    return network


def _refuse_other_multiplications(scanned: Scanned, wanted: str, where: str) -> None:
    """Convolutions are not asked: ONNX has none in bfloat16 below opset 22."""
    kinds = {name: _type_of(n, scanned) for name, n in scanned.nodes.items() if n.op_type in ("MatMul", "Gemm")}
    other = [f"node {name} multiplies in {kind}" for name, kind in kinds.items() if kind != wanted]
    if other:
        raise ConvertError(f"{where}: {'; '.join(other[:5])} ({len(other)} of {len(kinds)}), expected {wanted}")


def _kept_float32(
    scanned: Scanned, layers: tuple[LayerFact, ...], multiplies: Mapping[str, Mapping[str, int]]
) -> dict[str, int]:
    if not {"HALF", "BF16"} & {dtype for kinds in multiplies.values() for dtype in kinds}:
        return {}
    names = {layer.node for layer in layers if "FLOAT" in layer.dtypes and layer.node in scanned.nodes}
    return dict(sorted(Counter(scanned.nodes[name].op_type for name in names).items()))


def _multiplies(node: Any) -> bool:
    return node.op_type in MULTIPLIES


def _type_of(node: Any, scanned: Scanned) -> str:
    kind = scanned.types.get(node.output[0], 0)
    return FLOATS.get(kind, f"type {kind}")


def _stray(layer: LayerFact, scanned: Scanned) -> list[str]:
    """A layer's floating types that its ONNX node has neither as input nor as output (for a constant: no node has)."""
    node = scanned.nodes.get(layer.node)  # None: a constant or a broadcast, which belongs to the whole graph
    allowed = scanned.all_floats if node is None else scanned.floats(node)
    origin = "no node" if node is None else f"node {layer.node} ({node.op_type})"
    found = set(layer.dtypes) & set(FLOATS.values())
    return [
        f"{origin} became {kind} layer {layer.name}, expected {sorted(allowed) or 'no floating type'}"
        for kind in sorted(found - allowed)
    ]


def _table(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for (kind, dtype), count in sorted(Counter(pairs).items()):
        table.setdefault(kind, {})[dtype] = count
    return table


def main(path: str, precision: str | None = None) -> int:
    """The other process: JSON on standard output, or one line on standard error and an exit code."""
    try:
        trt = library(TENSORRT_RTX)
    except BackendError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return MISSING
    try:
        print(json.dumps(examine(Path(path), trt, Precision(precision) if precision else None).to_json()))
    except ConvertError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
