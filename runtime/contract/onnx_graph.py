# SPDX-License-Identifier: Apache-2.0
"""Graphs and nodes of an ONNX file, inner graphs of Loop, If and Scan included."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from runtime.contract import loading_limits as limits
from runtime.contract import onnx_fields as table
from runtime.contract.onnx_tensor import Tensors
from runtime.contract.protobuf import Budget, fields, signed, text
from runtime.errors import ContractError

Value = tuple[str, str, tuple[int | str | None, ...]]
_TEXT = limits.GRAPH_TEXT_BYTES


@dataclass
class _Scope:
    """Names of one graph: `numbers` are its int64 constants, `trips` how often its Loops go round, by name."""

    made: set[str] = field(default_factory=set)
    weights: set[str] = field(default_factory=set)
    numbers: dict[str, int] = field(default_factory=dict)
    trips: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Node:
    domain: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Graphs:
    """Reads the graphs of one file and keeps count of what is in them."""

    def __init__(self, data: bytes, budget: Budget) -> None:
        self._data, self._budget = data, budget
        self.tensors = Tensors(data, budget)
        self.operators: Counter[tuple[str, str]] = Counter()
        self.nodes = self.depth = 0

    def read_main(self, begin: int, end: int) -> tuple[list[Value], list[Value]]:
        """Inputs and outputs of the whole graph, in order; ContractError says what is refused inside."""
        inputs, outputs, open_trips = self._graph(begin, end, 1)
        if open_trips:
            raise ContractError(f"Loop: its rounds {sorted(open_trips)} are not a constant of the graph")
        return inputs, outputs

    def _graph(self, begin: int, end: int, depth: int) -> tuple[list[Value], list[Value], set[str]]:
        if depth > limits.GRAPH_DEPTH:
            raise ContractError(f"found graphs {depth} deep inside each other, expected at most {limits.GRAPH_DEPTH}")
        self.depth = max(self.depth, depth)
        scope, inputs, outputs = _Scope(), list[Value](), list[Value]()
        for name, a, b in fields(self._data, begin, end, table.GRAPH, self._budget):
            if name == "node":
                self._node(a, b, scope, depth)
            elif name == "initializer":
                self._initializer(a, b, scope)
            elif name == "value_info":
                self._value(a, b)
            elif name in ("input", "output"):
                (inputs if name == "input" else outputs).append(self._value(a, b))
            elif name != "metadata_props":
                text(self._data, a, b, f"GraphProto.{name}", _TEXT)
        for values, what in ((inputs, "inputs"), (outputs, "outputs")):
            names = [value[0] for value in values]
            if len(names) > limits.GRAPH_OUTPUTS or len(set(names)) != len(names) or "" in names:
                raise ContractError(f"graph {what}: found {names[:9]}, expected each name once, none empty")
        scope.made |= {value[0] for value in inputs}
        if twice := scope.made & scope.weights:
            raise ContractError(
                f"found {sorted(twice)[:9]} both as weights and as computed values, expected one of them"
            )
        return inputs, outputs, _open_trips(scope)

    def _initializer(self, begin: int, end: int, scope: _Scope) -> None:
        head = self.tensors.read(begin, end, weight=True)
        if head.name == "" or head.name in scope.weights:
            raise ContractError(f"initializer {head.name!r}: expected every weight to have a name of its own")
        scope.weights.add(head.name)
        if head.scalar is not None:
            scope.numbers[head.name] = head.scalar

    def _node(self, begin: int, end: int, scope: _Scope, depth: int) -> None:
        self.nodes += 1
        if self.nodes > limits.GRAPH_NODES:
            raise ContractError(f"found more than {limits.GRAPH_NODES} nodes")
        texts: dict[str, str] = {}
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: list[tuple[int, int]] = []
        for name, a, b in fields(self._data, begin, end, table.NODE, self._budget):
            if name == "attribute":
                attributes.append((a, b))
            elif name in ("input", "output"):
                (inputs if name == "input" else outputs).append(text(self._data, a, b, f"NodeProto.{name}", _TEXT))
            elif name != "metadata_props":
                texts[name] = text(self._data, a, b, f"NodeProto.{name}", _TEXT)
        node = _Node(texts.get("domain", ""), texts.get("op_type", ""), tuple(inputs), tuple(outputs))
        if texts.get("overload") or not node.operator or max(len(inputs), len(outputs)) > limits.GRAPH_OUTPUTS:
            raise ContractError(f"node {texts.get('name', '')!r}: found {texts}, expected a plain operator")
        self.operators[node.domain, node.operator] += 1
        self._attributes(attributes, node, scope, depth)
        scope.made.update(name for name in outputs if name)
        if node.operator == "Loop":
            if not inputs or not inputs[0]:
                raise ContractError(f"Loop {texts.get('name', '')!r}: it has no number of rounds, expected a constant")
            scope.trips.add(inputs[0])

    def _attributes(self, spans: list[tuple[int, int]], node: _Node, scope: _Scope, depth: int) -> None:
        names: set[str] = set()
        for begin, end in spans:
            name, number = self._attribute(begin, end, scope, depth)
            where = f"{node.operator}.{name}"
            if name in names or name == "":
                raise ContractError(f"{where}: expected every attribute once, with a name")
            names.add(name)
            if node.operator == "Constant" and number is not None and len(node.outputs) == 1:
                scope.numbers[node.outputs[0]] = number

    def _attribute(self, begin: int, end: int, scope: _Scope, depth: int) -> tuple[str, int | None]:
        label, kind, number = "", 0, None
        held: set[str] = set()
        for name, a, b in fields(self._data, begin, end, table.ATTRIBUTE, self._budget):
            if name == "name":
                label = text(self._data, a, b, "AttributeProto.name", _TEXT)
            elif name == "type":
                kind = a
            elif name == "doc_string":
                text(self._data, a, b, "AttributeProto.doc_string", _TEXT)
            else:
                held.add(name)
            if name in ("t", "tensors"):
                number = self.tensors.read(a, b, weight=False).scalar
            elif name in ("g", "graphs"):
                scope.trips |= self._graph(a, b, depth + 1)[2]
            elif name == "i":
                number = signed(a)
            elif name in ("s", "strings") and b - a > _TEXT:
                raise ContractError(f"attribute {label!r}: found {b - a} bytes of text, expected at most {_TEXT}")
        allowed = table.ATTRIBUTE_VALUES.get(kind)
        if allowed is None or held - {allowed}:
            raise ContractError(f"attribute {label!r}: found {sorted(held)}, expected what type {kind} says: {allowed}")
        return label, number

    def _value(self, begin: int, end: int) -> Value:
        name, dtype, shape = "", "", tuple[int | str | None, ...]()
        for field_name, a, b in fields(self._data, begin, end, table.VALUE, self._budget):
            if field_name == "name":
                name = text(self._data, a, b, "ValueInfoProto.name", _TEXT)
            elif field_name == "type":
                dtype, shape = self._type(a, b)
        return name, dtype, shape

    def _type(self, begin: int, end: int) -> tuple[str, tuple[int | str | None, ...]]:
        kind, shape = 0, tuple[int | str | None, ...]()
        for name, a, b in fields(self._data, begin, end, table.TYPE, self._budget):
            if name != "tensor_type":
                continue
            for inner, c, d in fields(self._data, a, b, table.TENSOR_TYPE, self._budget):
                if inner == "elem_type":
                    kind = c
                else:
                    shape = self._shape(c, d)
        if kind not in table.ELEMENTS:
            raise ContractError(f"ValueInfoProto: found element type {kind}, expected one of {sorted(table.ELEMENTS)}")
        return table.ELEMENTS[kind][0], shape

    def _shape(self, begin: int, end: int) -> tuple[int | str | None, ...]:
        axes: list[int | str | None] = []
        for _, a, b in fields(self._data, begin, end, table.SHAPE, self._budget):
            size: int | str | None = None
            for name, c, d in fields(self._data, a, b, table.DIM, self._budget):
                if name == "denotation":
                    continue
                if size is not None:
                    raise ContractError("TensorShapeProto.Dimension: found a size and a name, expected one of them")
                size = signed(c) if name == "dim_value" else text(self._data, c, d, "dim_param", _TEXT)
            if isinstance(size, int) and not 0 <= size <= limits.TENSOR_BYTES:
                raise ContractError(f"TensorShapeProto: found an axis of {size}")
            axes.append(size)
            if len(axes) > limits.TENSOR_AXES:
                raise ContractError(f"TensorShapeProto: found more than {limits.TENSOR_AXES} axes")
        return tuple(axes)


def _open_trips(scope: _Scope) -> set[str]:
    """Loop rounds that an outer graph must hold; ContractError if one is computed, or out of range."""
    for name in scope.trips & set(scope.numbers):
        if not 0 <= scope.numbers[name] <= limits.LOOP_TRIPS:
            raise ContractError(f"Loop: found {scope.numbers[name]} rounds, expected 0 to {limits.LOOP_TRIPS}")
    if computed := (scope.trips & scope.made) - set(scope.numbers):
        raise ContractError(f"Loop: its rounds {sorted(computed)} are computed, expected a constant of the graph")
    return scope.trips - set(scope.numbers)
