# SPDX-License-Identifier: Apache-2.0
"""The reader of ONNX files: agrees with onnx on what is there, refuses what could mean two things or do harm."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import fuzz_onnx
import fuzz_weights
import fuzz_wire
import numpy as np
import onnx
import pytest
from artifact_factory import onnx_bytes, policy_spec
from fuzz_bases import DATA, rich_graph, rich_policy
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, defs, helper, numpy_helper

from runtime.contract import loading_limits as limits
from runtime.contract import onnx_fields as table
from runtime.contract.conventions import FileRole
from runtime.contract.onnx_outline import OnnxOutline, read_outline
from runtime.contract.onnx_rules import OPERATORS, REFUSED_OPERATORS, check_outline
from runtime.contract.protobuf import Budget, Field, Message, count_packed, fields, varint
from runtime.errors import ContractError

GRAPH, WEIGHTS = rich_graph()
LINEAGE = "1" * 64
MESSAGES = {
    onnx.ModelProto: table.MODEL,
    onnx.OperatorSetIdProto: table.OPSET,
    onnx.StringStringEntryProto: table.ENTRY,
    onnx.GraphProto: table.GRAPH,
    onnx.NodeProto: table.NODE,
    onnx.AttributeProto: table.ATTRIBUTE,
    onnx.TensorProto: table.TENSOR,
    onnx.ValueInfoProto: table.VALUE,
    onnx.TypeProto: table.TYPE,
    onnx.TypeProto.Tensor: table.TENSOR_TYPE,
    onnx.TensorShapeProto: table.SHAPE,
    onnx.TensorShapeProto.Dimension: table.DIM,
}
# the wire type of each protobuf type; 9, 11, 12 are text, message, bytes
WIRES = {1: 1, 2: 5, 3: 0, 4: 0, 5: 0, 9: 2, 11: 2, 12: 2, 14: 0}


def check(data: bytes, size: int = len(WEIGHTS)) -> OnnxOutline:
    spec, outline = rich_policy(), read_outline(data)
    check_outline(outline, spec.graph, spec.engine.opset, LINEAGE, {DATA: size})
    return outline


def edited(change) -> bytes:
    model = onnx.load_from_string(GRAPH)
    change(model)
    return model.SerializeToString()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.DESCRIPTOR.name)
def test_field_tables_are_those_of_onnx(message) -> None:
    for field in message.DESCRIPTOR.fields:
        ours = MESSAGES[message].fields[field.number]
        assert (ours.name, ours.repeated) == (field.name, field.is_repeated)
        assert WIRES[field.type] in ours.wires
    assert set(MESSAGES[message].fields) == {field.number for field in message.DESCRIPTOR.fields}


def test_element_types_are_those_of_onnx() -> None:
    left_out = {"UNDEFINED", "STRING", "COMPLEX64", "COMPLEX128", "FLOAT6E2M3", "FLOAT6E3M2"}
    assert {v for k, v in TensorProto.DataType.items() if k not in left_out} == set(table.ELEMENTS)
    for number, (name, bits) in table.ELEMENTS.items():
        dtype = helper.tensor_dtype_to_np_dtype(number)
        assert str(dtype).replace("_", "") in (name, name.replace("float64", "double"))
        assert bits in (dtype.itemsize * 8, 4, 2)


def test_every_operator_of_onnx_is_allowed_or_refused() -> None:
    known = {schema.name for schema in defs.get_all_schemas() if schema.domain == ""}
    assert known == OPERATORS | REFUSED_OPERATORS
    assert not OPERATORS & REFUSED_OPERATORS


def test_attribute_values_are_those_of_onnx() -> None:
    short = {"FLOAT": "f", "INT": "i", "STRING": "s", "TENSOR": "t", "GRAPH": "g"}
    names = {v: short.get(k, k.lower()) for k, v in AttributeProto.AttributeType.items()}
    assert all(names[number] == field for number, field in table.ATTRIBUTE_VALUES.items())


@pytest.mark.parametrize("data", [onnx_bytes(), GRAPH], ids=["inline", "rich"])
def test_outline_says_what_onnx_says(data: bytes) -> None:
    model, outline = onnx.load_from_string(data), read_outline(data)
    nodes = fuzz_onnx.nodes(model)
    assert outline.operators == Counter((node.domain, node.op_type) for node in nodes)
    assert (outline.ir_version, outline.total_bytes, outline.nodes) == (model.ir_version, len(data), len(nodes))
    assert outline.opsets == {opset.domain: opset.version for opset in model.opset_import}
    assert outline.tensors == len(model.graph.initializer)
    assert outline.metadata == {entry.key: entry.value for entry in model.metadata_props}
    for found, values in ((outline.inputs, model.graph.input), (outline.outputs, model.graph.output)):
        assert [(v.name, v.shape) for v in found] == [
            (v.name, tuple(axis.dim_value for axis in v.type.tensor_type.shape.dim)) for v in values
        ]
    outside = [tensor for tensor in model.graph.initializer if tensor.external_data]
    assert [(e.tensor, e.location, e.offset, e.length) for e in outline.external] == [
        (t.name, *(kind(e.value) for kind, e in zip((str, int, int), t.external_data, strict=True))) for t in outside
    ]


def test_loop_and_small_types_are_accepted() -> None:
    outline = check(GRAPH)
    assert outline.depth == 2
    assert outline.operators["", "Loop"] == 1
    assert len(outline.external) == 6


@pytest.mark.parametrize("name", [name for name, (expect, _) in fuzz_onnx.EDITS.items() if expect == "early"])
@pytest.mark.parametrize("seed", range(4))
def test_harmful_edit_is_refused(name: str, seed: int) -> None:
    data = edited(lambda model: fuzz_onnx.EDITS[name][1](random.Random(seed), model))
    with pytest.raises(ContractError):
        check(data)


@pytest.mark.parametrize("name", fuzz_wire.RAW)
@pytest.mark.parametrize("seed", range(4))
def test_bytes_with_two_meanings_are_refused(name: str, seed: int) -> None:
    with pytest.raises(ContractError, match=r"ModelProto|protobuf|ONNX file"):
        check(fuzz_wire.RAW[name](random.Random(seed), GRAPH))


@pytest.mark.parametrize("place", fuzz_weights.PLACES)
def test_weights_come_from_the_listed_file_alone(place: str) -> None:
    data = edited(lambda model: fuzz_weights.put(model.graph.initializer[-4], "location", place))
    with pytest.raises(ContractError, match=r"expected one of the listed weight files|without NUL"):
        check(data)


def test_same_range_twice_is_one_weight_with_two_names() -> None:
    def share(model) -> None:
        twin = model.graph.initializer.add()
        twin.CopyFrom(next(tensor for tensor in model.graph.initializer if tensor.external_data))
        twin.name = "twin"

    assert len(check(edited(share)).external) == 7


def test_file_that_is_too_short_for_its_weights_is_named() -> None:
    with pytest.raises(ContractError, match=rf"a range inside {DATA}, which has {len(WEIGHTS) - 4096} bytes"):
        check(GRAPH, len(WEIGHTS) - 4096)


@pytest.mark.parametrize("trips", [-1, limits.LOOP_TRIPS + 1, 2**62])
def test_loop_goes_round_a_bounded_number_of_times(trips: int) -> None:
    def change(model) -> None:
        rounds = next(tensor for tensor in model.graph.initializer if tensor.name == "rounds")
        rounds.CopyFrom(numpy_helper.from_array(np.array(trips, np.int64), "rounds"))

    with pytest.raises(ContractError, match=rf"Loop: found {trips} rounds, expected 0 to {limits.LOOP_TRIPS}"):
        check(edited(change))


def test_loop_rounds_may_be_a_constant_node() -> None:
    def change(model) -> None:
        rounds = next(tensor for tensor in model.graph.initializer if tensor.name == "rounds")
        model.graph.initializer.remove(rounds)
        model.graph.node.insert(0, helper.make_node("Constant", [], ["rounds"], value_int=4))

    assert check(edited(change)).operators["", "Constant"] == 1


KINDS = [number for number in table.ELEMENTS if number not in (25, 26)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("raw", [True, False])
def test_every_element_type_is_counted_as_onnx_writes_it(kind: int, raw: bool) -> None:
    values = np.zeros((3, 5), helper.tensor_dtype_to_np_dtype(kind))
    tensor = numpy_helper.from_array(values, "w") if raw else helper.make_tensor("w", kind, [3, 5], values.flatten())
    data = edited(lambda model: model.graph.initializer.append(tensor))
    assert read_outline(data).tensors == read_outline(GRAPH).tensors + 1
    tensor.dims[1] = 7
    with pytest.raises(ContractError, match="tensor 'w'"):
        read_outline(edited(lambda model: model.graph.initializer.append(tensor)))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_bytes_raise_anything_but_a_contract_error(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(GRAPH) - 1))
    cut = data.draw(st.integers(0, 40))
    mangled = GRAPH[:at] + data.draw(st.binary(max_size=20)) + GRAPH[at + cut :]
    try:
        outline = read_outline(mangled)
    except ContractError:
        return
    assert outline.total_bytes == len(mangled)


@pytest.mark.parametrize("length", [0, limits.FILE_BYTES[FileRole.MODEL] + 1])
def test_empty_and_oversized_files_are_not_read(length: int) -> None:
    class Sized(bytes):
        def __len__(self) -> int:
            return length

    with pytest.raises(ContractError, match=f"found {length} bytes, expected 1 to"):
        read_outline(Sized())


def test_field_budget_bounds_the_work() -> None:
    data = b"\x08\x01" * 50
    with pytest.raises(ContractError, match="more than 10 fields"):
        list(fields(data, 0, len(data), _numbers(), Budget(10)))


def _numbers() -> Message:
    return Message("Numbers", {1: Field("n", (0,), repeated=True)})


@given(st.integers(0, 2**64 - 1))
def test_numbers_read_back_as_protobuf_writes_them(number: int) -> None:
    entry = onnx.TensorShapeProto.Dimension(dim_value=number - 2**64 if number >= 2**63 else number)
    data = entry.SerializeToString()
    assert varint(data, 1, len(data)) == (number, len(data))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40))
def test_packed_numbers_are_counted(numbers: list[int]) -> None:
    data = onnx.TensorProto(int64_data=numbers).SerializeToString()
    start = next((a for name, a, _ in fields(data, 0, len(data), table.TENSOR, Budget(9)) if name == "int64_data"), 0)
    assert count_packed(data, start, len(data)) == len(numbers)


def test_file_that_is_also_in_another_format_is_refused() -> None:
    both = b"\x12\xa4\x9c\x01ORTM" + b"x" * 20_000 + GRAPH
    assert onnx.load_from_string(both).producer_name.startswith("ORTM")
    with pytest.raises(ContractError, match="the mark of ONNX Runtime's own format"):
        check(both)


@pytest.mark.parametrize("name", ["policy.ort", "policy.xml", "policy"])
def test_engine_is_not_led_to_another_parser_by_the_name(name: str) -> None:
    spec = rich_policy()
    with pytest.raises(ContractError, match=r"graph file: found .*, expected a name that ends in \.onnx"):
        check_outline(read_outline(GRAPH), replace(spec.graph, file=name), 21, LINEAGE, {DATA: len(WEIGHTS)})


def test_policy_of_another_shape_is_refused() -> None:
    outline, spec = read_outline(onnx_bytes()), policy_spec()
    check_outline(outline, spec.graph, 17, LINEAGE, {})
    with pytest.raises(ContractError, match=r"inputs\[pixels\]|inputs: found"):
        check_outline(read_outline(edited(lambda m: m.graph.input[0].type.tensor_type.shape.dim.pop())), spec.graph, 21,
                      LINEAGE, {DATA: len(WEIGHTS)})  # fmt: skip
    with pytest.raises(ContractError, match="opset 18, once, as the manifest says"):
        check_outline(outline, spec.graph, 18, LINEAGE, {})
