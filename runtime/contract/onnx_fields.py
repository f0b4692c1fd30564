# SPDX-License-Identifier: Apache-2.0
"""Which fields ONNX's messages have, and which of them a robot's policy may use; a test compares with onnx's tables.

Refused on purpose: whatever carries code or weights that no rule of ours looks into (functions, training, sparse
weights, segments), and values that are not tensors.
"""

from __future__ import annotations

from runtime.contract.protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, Message

_PLAIN = "only plain tensors are values here"
_SPARSE = "sparse weights have been a way around the checks of external data"


def _int(name: str) -> Field:
    return Field(name, (VARINT,))


def _ints(name: str) -> Field:
    return Field(name, (VARINT, BYTES), repeated=True)


def _fixed(name: str, wire: int) -> Field:
    return Field(name, (wire, BYTES), repeated=True)


def _one(name: str) -> Field:
    return Field(name, (BYTES,))


def _many(name: str) -> Field:
    return Field(name, (BYTES,), repeated=True)


def _no(name: str, why: str, *, repeated: bool = True) -> Field:
    return Field(name, (BYTES,), repeated, why)


MODEL = Message(
    "ModelProto",
    {
        1: _int("ir_version"),
        2: _one("producer_name"),
        3: _one("producer_version"),
        4: _one("domain"),
        5: _int("model_version"),
        6: _one("doc_string"),
        7: _one("graph"),
        8: _many("opset_import"),
        14: _many("metadata_props"),
        20: _no("training_info", "a policy on a robot is not trained"),
        25: _no("functions", "operators are the standard ones; export with functions inlined"),
        26: _no("configuration", "a policy runs on one device"),
    },
)
OPSET = Message("OperatorSetIdProto", {1: _one("domain"), 2: _int("version")})
ENTRY = Message("StringStringEntryProto", {1: _one("key"), 2: _one("value")})
GRAPH = Message(
    "GraphProto",
    {
        1: _many("node"),
        2: _one("name"),
        5: _many("initializer"),
        10: _one("doc_string"),
        11: _many("input"),
        12: _many("output"),
        13: _many("value_info"),
        14: _no("quantization_annotation", "quantisation is written as QuantizeLinear and DequantizeLinear"),
        15: _no("sparse_initializer", _SPARSE),
        16: _many("metadata_props"),
    },
)
NODE = Message(
    "NodeProto",
    {
        1: _many("input"),
        2: _many("output"),
        3: _one("name"),
        4: _one("op_type"),
        5: _many("attribute"),
        6: _one("doc_string"),
        7: _one("domain"),
        8: _one("overload"),
        9: _many("metadata_props"),
        10: _no("device_configurations", "a policy runs on one device"),
    },
)
ATTRIBUTE = Message(
    "AttributeProto",
    {
        1: _one("name"),
        2: Field("f", (FIXED32,)),
        3: _int("i"),
        4: _one("s"),
        5: _one("t"),
        6: _one("g"),
        7: _fixed("floats", FIXED32),
        8: _ints("ints"),
        9: _many("strings"),
        10: _many("tensors"),
        11: _many("graphs"),
        13: _one("doc_string"),
        14: _no("tp", _PLAIN, repeated=False),
        15: _no("type_protos", _PLAIN),
        20: _int("type"),
        21: _no("ref_attr_name", "it belongs to functions", repeated=False),
        22: _no("sparse_tensor", _SPARSE, repeated=False),
        23: _no("sparse_tensors", _SPARSE),
    },
)
# AttributeProto.type -> the one field that then holds the value
ATTRIBUTE_VALUES = {
    1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 9: "tensors", 10: "graphs",
}  # fmt: skip
TENSOR = Message(
    "TensorProto",
    {
        1: _ints("dims"),
        2: _int("data_type"),
        3: _no("segment", "a weight is in one piece", repeated=False),
        4: _fixed("float_data", FIXED32),
        5: _ints("int32_data"),
        6: _no("string_data", _PLAIN),
        7: _ints("int64_data"),
        8: _one("name"),
        9: _one("raw_data"),
        10: _fixed("double_data", FIXED64),
        11: _ints("uint64_data"),
        12: _one("doc_string"),
        13: _many("external_data"),
        14: _int("data_location"),
        16: _many("metadata_props"),
    },
)
VALUE = Message("ValueInfoProto", {1: _one("name"), 2: _one("type"), 3: _one("doc_string"), 4: _many("metadata_props")})
TYPE = Message(
    "TypeProto",
    {
        1: _one("tensor_type"),
        4: _no("sequence_type", _PLAIN, repeated=False),
        5: _no("map_type", _PLAIN, repeated=False),
        6: _one("denotation"),
        7: _no("opaque_type", _PLAIN, repeated=False),
        8: _no("sparse_tensor_type", _PLAIN, repeated=False),
        9: _no("optional_type", _PLAIN, repeated=False),
    },
)
TENSOR_TYPE = Message("TypeProto.Tensor", {1: _int("elem_type"), 2: _one("shape")})
SHAPE = Message("TensorShapeProto", {1: _many("dim")})
DIM = Message("TensorShapeProto.Dimension", {1: _int("dim_value"), 2: _one("dim_param"), 3: _one("denotation")})

# TensorProto.DataType -> name and bits of one element; text and complex numbers are left out
ELEMENTS: dict[int, tuple[str, int]] = {
    1: ("float32", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("float64", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    16: ("bfloat16", 16),
    17: ("float8e4m3fn", 8),
    18: ("float8e4m3fnuz", 8),
    19: ("float8e5m2", 8),
    20: ("float8e5m2fnuz", 8),
    21: ("uint4", 4),
    22: ("int4", 4),
    23: ("float4e2m1fn", 4),
    24: ("float8e8m0fnu", 8),
    25: ("uint2", 2),
    26: ("int2", 2),
}
# element types whose typed values are not in `int32_data`
TYPED_DATA = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}
