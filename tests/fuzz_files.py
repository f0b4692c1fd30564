# SPDX-License-Identifier: Apache-2.0
"""Damage to files that needs no knowledge of a graph: bytes, links, holes, names, JSON, tensor headers, tokenizers."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_bases import DATA, MODEL, Work

from runtime.contract.manifest import canonical_json

Change = Callable[[random.Random, Work], None]
GOLDEN, NORMALIZATION, TOKENIZER = "golden.safetensors", "normalization.safetensors", "tokenizer.json"
NUMBERS = (0, -1, 1, 2, 255, 2**31, 2**53, 2**63, 2**64, 10**30, 1e308, -1e-308, 0.5)
VALUES = (None, True, "", "x", "\0", "../x", "é" * 300, [], {}, [[]], *NUMBERS)


def bytes_of(rng: random.Random, data: bytes) -> bytes:
    """The bytes with one to five changes of any kind, never the same bytes."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(out) + 1) if out else 0
        span = rng.choice([1, 1, 2, 8, 64, 4096])
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                out[at:at] = rng.randbytes(span)
            case 3:
                del out[at : at + span]
            case 4:
                out[at : at + span] = bytes(len(out[at : at + span]))
            case _:
                out = out[:at] if rng.random() < 0.5 else out + out[at : at + span]
    return bytes(out) if bytes(out) != data else data + b"\0"


def value_of(rng: random.Random, data: Any) -> Any:
    """JSON data with one place changed: value, key, order, or depth."""
    data = copy.deepcopy(data)
    places = []
    pending = [data]
    while pending:
        at = pending.pop()
        places += [(at, key) for key in (at if isinstance(at, dict) else range(len(at)))]
        pending += [item for item in (at.values() if isinstance(at, dict) else at) if isinstance(item, dict | list)]
    holder, key = rng.choice(places)
    old = holder[key]
    match rng.randrange(5):
        case 0 if isinstance(old, int | float) and not isinstance(old, bool):
            holder[key] = rng.choice([old + 1, -old, old * 2, *NUMBERS])
        case 1 if isinstance(holder, dict):
            del holder[key]
        case 2 if isinstance(holder, dict):
            holder[rng.choice(["x", "", key + "_", "type"])] = old
        case 3 if isinstance(old, list):
            holder[key] = rng.choice([old * 2, old[:-1], [old], old * 50])
        case _:
            holder[key] = rng.choice(VALUES)
    return data


# sealed as it was: nothing of this may load


def bytes_changed(rng: random.Random, work: Work) -> None:
    path = rng.choice(sorted(work.files))
    work.files[path] = bytes_of(rng, work.files[path])


def manifest_bytes_changed(rng: random.Random, work: Work) -> None:
    work.raw_manifest = bytes_of(rng, canonical_json(work.manifest))


def manifest_value_changed(rng: random.Random, work: Work) -> None:
    before = copy.deepcopy(work.manifest)
    while work.manifest == before:
        work.manifest = value_of(rng, before)


def files_exchanged(rng: random.Random, work: Work) -> None:
    first, second = rng.sample(sorted(work.files), 2)
    work.files[first], work.files[second] = work.files[second], work.files[first]


def file_gone_or_extra(rng: random.Random, work: Work) -> None:
    if rng.random() < 0.5:
        del work.files[rng.choice(sorted(work.files))]
    else:
        name = rng.choice(["x", "evidence/x.json", "policy.onnx.data2", "a/b/c/d", "Policy.onnx", ".x", "a\\b", "é"])
        work.files[name] = b"x"


def linked(rng: random.Random, work: Work) -> None:
    path = rng.choice([*sorted(work.files), "manifest.json", "evidence"])
    hard = rng.random() < 0.5 and path != "evidence"

    def change(folder: Path) -> None:
        outside = folder.parent / "outside"
        if hard:
            os.link(folder / path, outside)
        else:
            os.rename(folder / path, outside)
            (folder / path).symlink_to(outside)

    work.on_disk.append(change)


def not_a_file(rng: random.Random, work: Work) -> None:
    path, kind = rng.choice([*sorted(work.files), "manifest.json"]), rng.randrange(3)

    def change(folder: Path) -> None:
        (folder / path).unlink()
        if kind == 0:
            os.mkfifo(folder / path)
        elif kind == 1:
            (folder / path).mkdir()
        else:
            (folder / path).symlink_to(rng.choice(["/dev/zero", "/proc/self/mem", "/dev/stdin", "nowhere", path]))

    work.on_disk.append(change)


def hole(rng: random.Random, work: Work) -> None:
    """The same bytes with a hole where they are zero, or a file that claims to be huge."""
    path = DATA if DATA in work.files and rng.random() < 0.7 else rng.choice(sorted(work.files))
    data = work.files[path]
    zeros = any(not any(data[at : at + 4096]) for at in range(0, len(data) - 4095, 4096))
    size = len(data) if zeros else rng.choice([2**30, 2**40])

    def change(folder: Path) -> None:
        with open(folder / path, "wb") as stream:
            for at in range(0, len(data), 4096):
                if any(block := data[at : at + 4096]):
                    os.pwrite(stream.fileno(), block, at)
            os.truncate(stream.fileno(), size)

    work.on_disk.append(change)


# sealed again


def resealed_bytes(rng: random.Random, work: Work) -> None:
    path = rng.choice(sorted(set(work.files) - {MODEL}))
    work.files[path] = bytes_of(rng, work.files[path])


def resealed_graph_bytes(rng: random.Random, work: Work) -> None:
    work.files[MODEL] = bytes_of(rng, work.files[MODEL])


def resealed_manifest(rng: random.Random, work: Work) -> None:
    for _ in range(rng.choice([1, 1, 2])):
        changed = value_of(rng, work.manifest)
        work.manifest = changed if isinstance(changed, dict) else work.manifest


def resealed_exchange(rng: random.Random, work: Work) -> None:
    files_exchanged(rng, work)


def sizes_declared(rng: random.Random, work: Work) -> None:
    """After sealing: sizes that no file has."""
    work.reseal()
    entry = rng.choice(work.manifest["files"])
    entry["size"] = rng.choice([0, entry["size"] + 1, 2**31, 2**40, 2**62, 2**64])


def graph_in_two_formats(rng: random.Random, work: Work) -> None:
    """Valid protobuf with the mark of ONNX Runtime's own format, or under a name that means it."""
    name = b"ORTM" + b"x" * 20_000
    work.files[MODEL] = b"\x12\xa4\x9c\x01" + name + work.files[MODEL].replace(b"\x12\x07pytorch", b"", 1)
    if rng.random() < 0.5:
        other = rng.choice(["policy.ort", "policy.xml", "policy.onnx.ort", "policy"])
        work.files[other] = work.files.pop(MODEL)
        if rng.random() < 0.5:
            work.files[other] = work.files[other].replace(b"ORTM", b"xxxx")
        work.manifest["policy"]["graph"]["file"] = other
        next(entry for entry in work.manifest["files"] if entry["path"] == MODEL)["path"] = other


def tensor_header(rng: random.Random, work: Work) -> None:
    path = rng.choice([GOLDEN, NORMALIZATION])
    data = work.files[path]
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    if rng.random() < 0.2:
        claimed = rng.choice([0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1])
        work.files[path] = claimed.to_bytes(8, "little") + data[8:]
        return
    name = rng.choice(sorted(header))
    entry = header[name] if isinstance(header[name], dict) else {}
    match rng.randrange(5):
        case 0:
            entry["dtype"] = rng.choice(["BF16", "F8_E4M3", "F64", "BOOL", "I64", "C64", "X", 7, None])
        case 1:
            entry["shape"] = rng.choice([[], [0], [2**62, 4], [-1], [1.5], "x", [1] * 99, [len(body)]])
        case 2:
            entry["data_offsets"] = rng.choice([[0, 2**62], [-8, 0], [8, 0], [0], [0, len(body)], "x", [len(body)] * 2])
        case 3:
            header[rng.choice(["state.q01", "x", "", "é"])] = entry
        case _:
            header = value_of(rng, header)
    text = json.dumps(header).encode()
    if rng.random() < 0.1:
        text = rng.choice([b"[" * 100_000, b'{"a":' * 5000, text[:-1] + b',"a":1,"a":2}', b"{}", b"1e999", b"\xff{}"])
    work.files[path] = len(text).to_bytes(8, "little") + text + body


def tokenizer_value(rng: random.Random, work: Work) -> None:
    changed = value_of(rng, json.loads(work.files[TOKENIZER]))
    work.files[TOKENIZER] = json.dumps(changed).encode()


def tokenizer_part(rng: random.Random, work: Work) -> None:
    content = json.loads(work.files[TOKENIZER])
    content |= rng.choice(PARTS)(rng)
    work.files[TOKENIZER] = json.dumps(content).encode()


def tokenizer_forbidden(rng: random.Random, work: Work) -> None:
    content = json.loads(work.files[TOKENIZER])
    content |= rng.choice(FORBIDDEN)(rng)
    work.files[TOKENIZER] = json.dumps(content).encode()


def _split(pattern: str) -> dict[str, Any]:
    return {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}}


def _replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _template(name: str, count: int) -> dict[str, Any]:
    item = {"SpecialToken": {"id": name, "type_id": 0}}
    known = {"x": {"id": "x", "ids": [7], "tokens": ["x"]}}
    return {
        "post_processor": {"type": "TemplateProcessing", "single": [item] * count, "pair": [], "special_tokens": known}
    }


PARTS: list[Callable[[random.Random], dict[str, Any]]] = [
    lambda rng: _split(rng.choice(["(a+)+$", "(.*)*x", "(e|e)*z", "", "\\", "(", "(?<n>a\\g<n>?b?)+", "a{1,99999}"])),
    lambda rng: _split("(" * rng.choice([10, 400]) + "a"),
    lambda rng: {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": rng.choice([["a a"], [["a"]], ["a"], [""]])}},
    lambda rng: {"model": {"type": "Unigram", "unk_id": rng.choice([0, 9, None, -1]), "vocab": [["a", -1.0]]}},
    lambda rng: {"model": {"type": "WordLevel", "unk_token": "?", "vocab": {"a": rng.choice([0, 2**32, -1])}}},
    lambda rng: {"model": {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "",
                           "max_input_chars_per_word": 10**9, "vocab": {"a": 0}}},
    lambda rng: {"truncation": {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 5}},
    lambda rng: {"padding": {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": 0, "pad_id": 0,
                             "pad_type_id": 0, "pad_token": "x"}},
    lambda rng: _template(rng.choice(["x", "missing"]), rng.choice([1, 64])),
    lambda rng: {"added_tokens": [{"id": rng.choice([0, 2**32 - 1]), "content": rng.choice(["", "the", "e" * 9999]),
                                   "single_word": False, "lstrip": True, "rstrip": True, "normalized": True,
                                   "special": rng.random() < 0.5}] * rng.choice([1, 50])},
    lambda rng: {"pre_tokenizer": {"type": "Digits", "individual_digits": True}},
    lambda rng: {"normalizer": {"type": "Sequence", "normalizers": [_replace("e", "ee")] * rng.choice([1, 6])}},
]  # fmt: skip
FORBIDDEN: list[Callable[[random.Random], dict[str, Any]]] = [
    lambda rng: {"normalizer": {"type": "Precompiled", "precompiled_charsmap": rng.choice(["/////wAAAAAAAAA=", ""])}},
    lambda rng: {"normalizer": {"type": "Sequence", "normalizers": [_replace("e", "ee")] * rng.choice([7, 24])}},
    lambda rng: {"normalizer": _replace("", "x")},
    lambda rng: {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    lambda rng: _split("a" * 2000),
    lambda rng: _template("x", 10_000),
    lambda rng: {"model": {"type": "BPE", "dropout": 0.5, "vocab": {"a": 0}, "merges": []}},
    lambda rng: {"evil": 1},
]  # fmt: skip

UNSEALED: tuple[Change, ...] = (
    bytes_changed, manifest_bytes_changed, manifest_value_changed, files_exchanged, file_gone_or_extra, linked,
    not_a_file, hole,
)  # fmt: skip
# name -> what must come of it once it is sealed again
RESEALED: dict[Change, str] = {
    resealed_bytes: "any",
    resealed_graph_bytes: "any",
    resealed_manifest: "any",
    resealed_exchange: "any",
    sizes_declared: "early",
    graph_in_two_formats: "early",
    tensor_header: "any",
    tokenizer_value: "any",
    tokenizer_part: "any",
    tokenizer_forbidden: "early",
}
