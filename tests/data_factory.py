# SPDX-License-Identifier: Apache-2.0
"""Small data sets in the published layouts, written with pyarrow, av, h5py and a TFRecord writer of their own.

Episode e, frame t has known numbers and a picture that says which one it is: `truth`, `picture`.
"""

from __future__ import annotations

import functools
import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

LENGTHS = (7, 4, 6)
FPS = 10
HIGH, WIDE = 48, 64
SENTENCES = ("pick up the cube", "open the drawer")
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


def truth(episode: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """States (T, 5) and actions (T, 3), float32."""
    draw = np.random.default_rng([episode, 1])
    return draw.normal(size=(length, 5)).astype(np.float32), draw.normal(size=(length, 3)).astype(np.float32)


def picture(episode: int, frame: int, camera: int = 0) -> np.ndarray:
    """A grey that tells the frame, with a bright corner that tells up from down; smooth, so that video keeps it."""
    image = np.full((HIGH, WIDE, 3), 40 + 25 * frame + 3 * episode, np.uint8)
    image[:16, :16] = (250, 20 + 60 * camera, 10)
    return image


def sentence(episode: int) -> str:
    return SENTENCES[episode % 2]


def png(image: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def write_video(
    path: Path, images: Sequence[np.ndarray], codec: str = "libx264", fps: int = FPS, **options: str
) -> Path:
    """Key frames every two frames as LeRobot writes them, unless `options` say otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = options.pop("movflags", None)
    with av.open(str(path), "w", options={"movflags": flags} if flags else {}) as container:
        stream = container.add_stream(codec, rate=fps, options={"g": "2", "crf": "12", **options})
        stream.width, stream.height, stream.pix_fmt = WIDE, HIGH, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    # SVT-AV1 makes its caller a real-time process where it may: tests after this one would starve all others
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def _features(storage: Mapping[str, str]) -> dict[str, Any]:
    cameras = {
        key: {"dtype": kind, "shape": [HIGH, WIDE, 3], "names": ["height", "width", "channels"]}
        for key, kind in storage.items()
    }
    scalar = {"shape": [1], "names": None}
    return {
        **cameras,
        "observation.state": {"dtype": "float32", "shape": [5], "names": {"motors": ["x", "y", "z", "yaw", "grip"]}},
        "action": {"dtype": "float32", "shape": [3], "names": ["dx", "dy", "grip"]},
        "timestamp": {"dtype": "float32", **scalar},
        **{key: {"dtype": "int64", **scalar} for key in ("frame_index", "episode_index", "index", "task_index")},
    }


def _rows(episode: int, length: int, first: int, storage: Mapping[str, str], fps: int) -> pa.Table:
    states, actions = truth(episode, length)
    frame = np.arange(length)
    columns: dict[str, Any] = {
        "observation.state": pa.array(list(states), pa.list_(pa.float32(), 5)),
        "action": pa.array(list(actions), pa.list_(pa.float32())),
        "timestamp": pa.array((frame / fps).astype(np.float32)),
        "frame_index": pa.array(frame),
        "episode_index": pa.array(np.full(length, episode)),
        "index": pa.array(first + frame),
        "task_index": pa.array(np.full(length, episode % 2)),
    }
    for number, (key, kind) in enumerate(storage.items()):
        if kind == "image":
            cells = [{"bytes": png(picture(episode, t, number)), "path": f"frame-{t:06d}.png"} for t in range(length)]
            columns[key] = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return pa.table(columns)


def write_table(path: Path, table: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def lerobot(
    root: Path, version: str = "v3.0", storage: Mapping[str, str] | None = None, lengths: Sequence[int] = LENGTHS,
    fps: int = FPS, codec: str = "libx264", **video: str,
) -> Path:  # fmt: skip
    """A LeRobotDataset; in v3.0 the first two episodes share a data file and all share one video per camera."""
    storage = {FRONT: "video", WRIST: "image"} if storage is None else storage
    three = version.startswith("v3")
    info = {
        "codebase_version": version, "robot_type": "arm", "fps": fps, "chunks_size": 1000,
        "features": _features(storage), "total_episodes": len(lengths), "total_frames": sum(lengths),
        "total_tasks": 2, "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if three
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if three
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }  # fmt: skip
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/stats.json").write_text("{}")
    firsts = [0, *np.cumsum(lengths)[:-1].tolist()]
    tables = [_rows(e, n, first, storage, fps) for e, (n, first) in enumerate(zip(lengths, firsts, strict=True))]
    films = {
        key: [[picture(e, t, number) for t in range(n)] for e, n in enumerate(lengths)]
        for number, (key, kind) in enumerate(storage.items())
        if kind == "video"
    }
    encode = functools.partial(write_video, codec=codec, fps=fps, **video)
    if three:
        _packed(root, tables, films, [first / fps for first in firsts], lengths, encode)
    else:
        _single(root, tables, films, lengths, encode)
    return root


def _packed(
    root: Path, tables: list[pa.Table], films: dict[str, list[Any]], starts: list[float], lengths: Sequence[int],
    encode: Callable[..., Path],
) -> None:  # fmt: skip
    write_table(root / "data/chunk-000/file-000.parquet", pa.concat_tables(tables[:2]), row_group_size=5)
    if tables[2:]:
        write_table(root / "data/chunk-000/file-001.parquet", pa.concat_tables(tables[2:]))
    for key, episodes in films.items():
        frames = [image for episode in episodes for image in episode]
        encode(root / f"videos/{key}/chunk-000/file-000.mp4", frames)
    count = len(lengths)
    columns: dict[str, Any] = {
        "episode_index": list(range(count)),
        "tasks": [[sentence(e)] for e in range(count)],
        "length": list(lengths),
        "data/chunk_index": [0] * count,
        "data/file_index": [0 if e < 2 else 1 for e in range(count)],
        "stats/action/mean": [[0.0] * 3] * count,
    }
    for key in films:
        columns[f"videos/{key}/chunk_index"] = [0] * count
        columns[f"videos/{key}/file_index"] = [0] * count
        columns[f"videos/{key}/from_timestamp"] = starts
        columns[f"videos/{key}/to_timestamp"] = [*starts[1:], 0.0]
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", pa.table(columns))
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": list(SENTENCES)})  # as pandas writes its index
    write_table(root / "meta/tasks.parquet", tasks)


def _single(
    root: Path, tables: list[pa.Table], films: dict[str, list[Any]], lengths: Sequence[int], encode: Callable[..., Path]
) -> None:
    for episode, table in enumerate(tables):
        write_table(root / f"data/chunk-000/episode_{episode:06d}.parquet", table)
        for key, episodes in films.items():
            path = root / f"videos/chunk-000/{key}/episode_{episode:06d}.mp4"
            encode(path, episodes[episode])
    rows = [{"episode_index": e, "tasks": [sentence(e)], "length": n} for e, n in enumerate(lengths)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [{"task_index": k, "task": text} for k, text in enumerate(SENTENCES)]
    (root / "meta/tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tasks))


def modality(root: Path) -> Path:
    """GR00T's file."""
    data = {
        "state": {"arm": {"start": 0, "end": 4}, "hand": {"start": 4, "end": 5}},
        "action": {"arm": {"start": 0, "end": 2}, "hand": {"start": 2, "end": 3, "original_key": "action"}},
        "video": {"front": {"original_key": FRONT}},
        "annotation": {"human.task_description": {"original_key": "task_index"}},
    }
    (root / "meta/modality.json").write_text(json.dumps(data))
    return root


def robomimic(path: Path, lengths: Sequence[int] = LENGTHS) -> Path:
    """One HDF5 file as robomimic writes it, with a sentence per demonstration as RoboCasa adds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 20}})
        data.attrs["total"] = sum(lengths)
        for episode, length in enumerate(lengths):
            states, actions = truth(episode, length)
            demo = data.create_group(f"demo_{episode}")
            demo.attrs["num_samples"] = length
            demo.attrs["ep_meta"] = json.dumps({"lang": sentence(episode)})
            demo.attrs["words"] = f"do {episode}"
            demo["actions"] = actions
            demo["obs/eef_pos"], demo["obs/gripper"] = states[:, :4], states[:, 4]
            demo["obs/front_image"] = np.stack([picture(episode, t) for t in range(length)])
            demo["states"] = np.zeros((length, 30))
            demo["next_obs/front_image"] = np.zeros((length, HIGH, WIDE, 3), np.uint8)
    return path


def _crc(data: bytes) -> int:
    """CRC-32C bit by bit, masked: written from the definition, apart from the reader's."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(records: Sequence[bytes]) -> bytes:
    """A TFRecord file."""
    parts = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts += [length, struct.pack("<I", _crc(length)), record, struct.pack("<I", _crc(record))]
    return b"".join(parts)


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(value: Any, packed: bool = True) -> bytes:
    """A Feature of bytes, floats or integers."""
    if isinstance(value[0], bytes):
        return field(1, b"".join(field(1, item) for item in value))
    array = np.asarray(value)
    if array.dtype.kind == "f":
        raw = [struct.pack("<f", x) for x in array.ravel()]
        return field(2, field(1, b"".join(raw)) if packed else b"".join(varint(1 << 3 | 5) + x for x in raw))
    whole = [varint(int(x)) for x in array.ravel()]
    return field(3, field(1, b"".join(whole)) if packed else b"".join(varint(1 << 3) + x for x in whole))


def example(values: Mapping[str, Any], packed: bool = True) -> bytes:
    """An Example."""
    entries = (field(1, field(1, name.encode()) + field(2, feature(value, packed))) for name, value in values.items())
    return field(1, b"".join(entries))


def sequence_example(values: Mapping[str, Sequence[Any]]) -> bytes:
    """A SequenceExample: one Feature per step."""
    lists = b""
    for name, steps in values.items():
        lists += field(1, field(1, name.encode()) + field(2, b"".join(field(1, feature(step)) for step in steps)))
    return field(2, lists)


def _leaf(kind: str, shape: Sequence[int] = (), **more: str) -> dict[str, Any]:
    dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
    name = {"image": "image_feature.Image", "tensor": "tensor_feature.Tensor"}[kind]
    return {"pythonClassName": f"tensorflow_datasets.core.features.{name}", kind: {"shape": dimensions, **more}}


def _dict(children: Mapping[str, Any]) -> dict[str, Any]:
    name = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    return {"pythonClassName": name, "featuresDict": {"features": dict(children)}}


def rlds_features() -> dict[str, Any]:
    """`features.json`."""
    observation = {
        "image": _leaf("image", (HIGH, WIDE, 3), dtype="uint8", encodingFormat="png"),
        "wrist": _leaf("image", (HIGH, WIDE, 3), dtype="uint8", encodingFormat="jpeg"),
        "state": _leaf("tensor", (5,), dtype="float32", encoding="none"),
        "raw": _leaf("tensor", (HIGH, WIDE, 3), dtype="uint8", encoding="zlib"),
    }
    steps = {
        "observation": _dict(observation),
        "action": _leaf("tensor", (3,), dtype="float32", encoding="none"),
        "is_first": _leaf("tensor", (), dtype="bool", encoding="none"),
        "language_instruction": {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}},
    }
    nested = {
        "pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset",
        "sequence": {"feature": _dict(steps), "length": "-1"},
    }
    return _dict({"steps": nested, "episode_metadata": _dict({"file_path": _leaf("tensor", dtype="string")})})


def rlds_episode(episode: int, length: int) -> dict[str, Any]:
    """What one record holds."""
    states, actions = truth(episode, length)
    return {
        "steps/observation/image": [png(picture(episode, t)) for t in range(length)],
        "steps/observation/wrist": [png(picture(episode, t, 1), "JPEG") for t in range(length)],
        "steps/observation/raw": [zlib.compress(picture(episode, t, 2).tobytes()) for t in range(length)],
        "steps/observation/state": states,
        "steps/action": actions,
        "steps/is_first": [int(t == 0) for t in range(length)],
        "steps/language_instruction": [sentence(episode).encode()] * length,
        "episode_metadata/file_path": [b"/somewhere"],
    }


def rlds(root: Path, lengths: Sequence[int] = LENGTHS, packed: bool = True) -> Path:
    """`<root>/tiny_arm/1.0.0` with two shards; returns the version's folder."""
    folder = root / "tiny_arm/1.0.0"
    folder.mkdir(parents=True)
    (folder / "features.json").write_text(json.dumps(rlds_features()))
    shards = [list(enumerate(lengths))[:2], list(enumerate(lengths))[2:]]
    split = {"name": "train", "shardLengths": [str(len(shard)) for shard in shards], "numBytes": "0"}
    info = {"name": "tiny_arm", "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for number, shard in enumerate(shards):
        records = [example(rlds_episode(e, n), packed) for e, n in shard]
        (folder / f"tiny_arm-train.tfrecord-{number:05d}-of-00002").write_bytes(framed(records))
    return folder
