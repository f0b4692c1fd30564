# SPDX-License-Identifier: Apache-2.0
"""Edits of an ONNX file's weights: where they lie, how long they are, what shape and type they claim to have."""

from __future__ import annotations

import random
from typing import Any

from fuzz_onnx import HUGE, edit
from onnx import TensorProto, helper

PLACES = (
    "/etc/passwd", "../policy.onnx.data", "./policy.onnx.data", "sub/policy.onnx.data", "..", ".", "",
    "C:\\policy.onnx.data", "sub\\policy.onnx.data", "policy.onnx.data\0", "*/_ORT_MEM_ADDR_/*", "policy.onnx",
    "manifest.json", "tokenizer.json", "POLICY.ONNX.DATA", "policy.onnx.data ", "/dev/zero", "/proc/self/mem",
    "file:///etc/passwd", "\\\\host\\share", "policy.onnx.data/",
)  # fmt: skip


def external(rng: random.Random, model: Any) -> Any:
    """An initializer outside the file; one is moved out where there is none."""
    outside = [tensor for tensor in model.graph.initializer if tensor.external_data]
    if outside:
        return rng.choice(outside)
    tensor = rng.choice([tensor for tensor in model.graph.initializer if tensor.HasField("raw_data")])
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "policy.onnx.data"), ("offset", 0), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def put(tensor: Any, key: str, value: str) -> None:
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value


@edit("early")
def sparse_weight(rng: random.Random, model: Any) -> None:
    sparse = model.graph.sparse_initializer.add(dims=[rng.choice([4, *HUGE])])
    sparse.values.CopyFrom(helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0]))
    sparse.indices.CopyFrom(helper.make_tensor("at", TensorProto.INT64, [1], [rng.choice([0, 3, 2**40])]))
    if rng.random() < 0.5:
        external_to(sparse.values, rng.choice(PLACES))


def external_to(tensor: Any, place: str) -> None:
    for name in ("float_data", "raw_data", "int64_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)


@edit("early")
def location_changed(rng: random.Random, model: Any) -> None:
    put(external(rng, model), "location", rng.choice(PLACES))


@edit("early")
def range_beyond_file(rng: random.Random, model: Any) -> None:
    put(external(rng, model), "offset", str(rng.choice([10**6, 2**31, 2**40, 2**63 - 1, 10**19 - 1])))


@edit("early")
def range_not_a_number(rng: random.Random, model: Any) -> None:
    bad = rng.choice(["-1", "+0", " 0", "0x10", "1e3", "", "٣", "9" * 40, "0\n"])
    put(external(rng, model), rng.choice(["offset", "length"]), bad)


@edit("early")
def length_changed(rng: random.Random, model: Any) -> None:
    tensor = external(rng, model)
    length = int(next(entry.value for entry in tensor.external_data if entry.key == "length"))
    put(tensor, "length", str(rng.choice([0, max(0, length - 1), length + 1, length * 2, 2**40])))
    if length == 0:
        put(tensor, "length", "7")


@edit("early")
def ranges_overlap(rng: random.Random, model: Any) -> None:
    outside = [tensor for tensor in model.graph.initializer if tensor.external_data]
    if len(outside) < 2:
        return location_changed(rng, model)
    first = outside[0]
    offset = int(next(entry.value for entry in first.external_data if entry.key == "offset"))
    put(outside[1], "offset", str(offset + rng.choice([1, 4, 8, 16])))
    return None


@edit("early")
def external_key_added(rng: random.Random, model: Any) -> None:
    key = rng.choice(["prepacked_0", "checksum", "location", "offset", "basepath", "Location", ""])
    external(rng, model).external_data.add(key=key, value="0")


@edit("early")
def external_constant(rng: random.Random, model: Any) -> None:
    node = helper.make_node("Constant", [], ["extra"], value=helper.make_tensor("c", TensorProto.FLOAT, [1], [1.0]))
    external_to(node.attribute[0].t, "policy.onnx.data")
    model.graph.node.insert(0, node)


@edit("early")
def shape_changed(rng: random.Random, model: Any) -> None:
    tensor = rng.choice(model.graph.initializer)
    sizes = [*HUGE, -1, 3, 17]
    tensor.dims.append(rng.choice(sizes)) if rng.random() < 0.5 or not tensor.dims else tensor.dims.__setitem__(
        rng.randrange(len(tensor.dims)), rng.choice([*HUGE, -1, 1001])
    )


@edit("early")
def shape_overflows(rng: random.Random, model: Any) -> None:
    tensor = rng.choice(model.graph.initializer)
    del tensor.dims[:]
    tensor.dims.extend(rng.choice([[2**32, 2**32], [2**63 - 1, 2], [2**21] * 3, [0, 2**63 - 1], [1] * 9, [-1, -1]]))


@edit("early")
def text_tensor(rng: random.Random, model: Any) -> None:
    model.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [1], [b"x"]))


@edit("any")
def element_type_changed(rng: random.Random, model: Any) -> None:
    rng.choice(model.graph.initializer).data_type = rng.choice([0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 14, 16, 20, 22, 27, 99])


@edit("early")
def weight_doubled(rng: random.Random, model: Any) -> None:
    model.graph.initializer.append(rng.choice(model.graph.initializer))


@edit("any")
def weight_removed(rng: random.Random, model: Any) -> None:
    model.graph.initializer.remove(rng.choice(model.graph.initializer))


@edit("any")
def weight_moved_inside(rng: random.Random, model: Any) -> None:
    tensor = external(rng, model)
    size = int(next(entry.value for entry in tensor.external_data if entry.key == "length"))
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = rng.randbytes(size)


@edit("any")
def weight_bytes_changed(rng: random.Random, model: Any) -> None:
    tensor = rng.choice([tensor for tensor in model.graph.initializer if tensor.raw_data])
    tensor.raw_data = rng.randbytes(len(tensor.raw_data))
