# SPDX-License-Identifier: Apache-2.0
"""ONNX -> engine, on the machine that will run it. The same code parses and builds in `tensorrt` and `tensorrt_rtx`.

Always strongly typed: precision is what the ONNX says, never a flag. TensorRT 10 is asked for it, TensorRT 11 knows
nothing else and ignores the flag, so one path serves both. Rejected: weakly typed networks with FP16 flags, where the
builder chooses the precision of a layer by its speed and parity depends on the day's timing.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.backends.tensorrt_library import create, last_errors, logger, version_of
from runtime.contract import check
from runtime.contract.codec import conform
from runtime.errors import BackendError

MIN_MAJOR = 10  # `tensorrt`; TensorRT-RTX counts its own versions
LEVELS, OPEN = (0, 5), -1
_ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\]")


@dataclass(frozen=True)
class BuildSettings:
    """What may be asked of the builder; part of an engine's key. Raises ContractError.

    Attributes:
        optimization_level: 0 to 5; higher searches longer. TensorRT's own default is 3.
        workspace_bytes: scratch memory a kernel may use; 0 leaves TensorRT's choice (all of the device).
        tf32: multiply float32 with 10 bits of mantissa. Off, because parity is against float32.
        timing_cache: reuse kernel timings of earlier builds on this station.
    """

    optimization_level: int = 3
    workspace_bytes: int = 0
    tf32: bool = False
    timing_cache: bool = True

    def __post_init__(self) -> None:
        conform(self)
        low, high = LEVELS
        level = self.optimization_level
        check.require(low <= level <= high, "BuildSettings.optimization_level", level, f"{low} to {high}")
        check.require(self.workspace_bytes >= 0, "BuildSettings.workspace_bytes", self.workspace_bytes, "bytes >= 0")

    @property
    def flags(self) -> tuple[str, ...]:
        """Builder and network flags by name, as asked for."""
        return ("STRONGLY_TYPED", "TF32") if self.tf32 else ("STRONGLY_TYPED",)


@dataclass(frozen=True)
class LayerFact:
    """One layer of a parsed network.

    Attributes:
        name, kind: as TensorRT calls them, for instance `MATRIX_MULTIPLY`.
        node: name of the ONNX node it came from; empty for constants and broadcasts that the parser put in.
        dtypes: element types of its outputs, for instance `HALF`.
    """

    name: str
    kind: str
    node: str
    dtypes: tuple[str, ...]


class ParsedNetwork:
    """A network that TensorRT accepted, with everything that has to live as long as it does."""

    def __init__(self, trt: Any, builder: Any, network: Any, parser: Any, log: Any, path: Path) -> None:
        self.trt, self.builder, self.network, self.log, self.path = trt, builder, network, log, path
        self._parser = parser  # owns the weights that the network points to

    def layers(self) -> Iterator[LayerFact]:
        """Every layer, loop bodies included."""
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            found = _ONNX_LAYER.search(str(layer.metadata or ""))
            dtypes = tuple(layer.get_output(i).dtype.name for i in range(layer.num_outputs))
            yield LayerFact(layer.name, layer.type.name, found[1] if found else "", dtypes)


@dataclass(frozen=True, eq=False)
class Built:
    """A serialised engine in memory, the timing cache after it, and how long it took [s]."""

    plan: bytes
    timing: bytes
    seconds: float


def parse(trt: Any, path: Path) -> ParsedNetwork:
    """Parse an ONNX file, external weights beside it; BackendError names the node that TensorRT refuses."""
    major = int(version_of(trt).split(".")[0])
    if trt.__name__ == "tensorrt" and major < MIN_MAJOR:
        raise BackendError(f"TensorRT: found {version_of(trt)}, expected {MIN_MAJOR}.x or newer (int64, strong typing)")
    log = logger(trt)
    builder = create(trt.Builder, log)
    typed = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(typed))
    parser = create(trt.OnnxParser, network, log)
    if not parser.parse_from_file(str(path)):
        raise BackendError(f"{path}: {_name(trt)} cannot parse it: {_parse_errors(parser) or last_errors(log)}")
    return ParsedNetwork(trt, builder, network, parser, log, path)


def _parse_errors(parser: Any) -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return " | ".join(f"node {e.node_name() or e.node()} ({e.node_operator()}): {e.desc().strip()}" for e in errors)


def build(
    parsed: ParsedNetwork,
    settings: BuildSettings,
    timing: bytes = b"",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Built:
    """Build and serialise; `timing` is an older timing cache of the same station. BackendError says what failed.

    `shapes` fixes what the graph leaves open, by input: one profile whose smallest, best and largest are the same,
    because the robot asks one question at a time. An open size that is not given is 1.
    """
    trt, builder, started = parsed.trt, parsed.builder, time.perf_counter()
    config = builder.create_builder_config()
    config.builder_optimization_level = settings.optimization_level
    if settings.workspace_bytes:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    (config.set_flag if settings.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    _fix_open_sizes(parsed, config, shapes or {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TensorRT-RTX keeps timing caches as no-ops
        if settings.timing_cache and not config.set_timing_cache(config.create_timing_cache(timing), False):
            raise BackendError(f"{parsed.path}: {_name(trt)} refuses the timing cache: {last_errors(parsed.log)}")
        host = builder.build_serialized_network(parsed.network, config)
        if host is None:
            raise BackendError(f"{parsed.path}: {_name(trt)} cannot build it: {last_errors(parsed.log)}")
        after = bytes(config.get_timing_cache().serialize()) if settings.timing_cache else b""
    return Built(bytes(host), after, time.perf_counter() - started)


def _fix_open_sizes(parsed: ParsedNetwork, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    inputs = [parsed.network.get_input(i) for i in range(parsed.network.num_inputs)]
    if not any(OPEN in tuple(tensor.shape) for tensor in inputs):
        return
    profile = parsed.builder.create_optimization_profile()
    for tensor in inputs:
        found = tuple(tensor.shape)
        wanted = shapes.get(tensor.name) or tuple(1 if size == OPEN else size for size in found)
        if not fits(found, wanted):
            raise BackendError(f"{parsed.path}: input {tensor.name!r} is {found}, expected {wanted}")
        profile.set_shape(tensor.name, wanted, wanted, wanted)
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(f"{parsed.path}: {_name(parsed.trt)} refuses its profile: {last_errors(parsed.log)}")


def fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a shape with open sizes (-1) can be `wanted`."""
    return len(found) == len(wanted) and all(a in (OPEN, b) for a, b in zip(found, wanted, strict=True))


def _name(trt: Any) -> str:
    return f"{trt.__name__} {version_of(trt)}"
