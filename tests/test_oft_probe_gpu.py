# SPDX-License-Identifier: Apache-2.0
"""The GPU benchmark of OpenVLA-OFT runs end to end on small shapes; its floor and its batch size are what they say."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.costs import count_flops
from compress.gateprobe import probe
from compress.models.openvla_oft import LANGUAGE
from compress.scale.blocks import checkpointed

ASKED = ["--tiny", "--device", "cpu", "--samples", "16", "--rounds", "2"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def load(repo: Path) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repo / "benchmarks"))
        yield importlib.import_module


@pytest.fixture(scope="module")
def ran(load: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("oft") / "result.json"
    load("oft_probe_gpu").main([str(path), *ASKED])
    return path


def tiny(load: Any, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    script = load("oft_random")
    return script.build(*script.tiny_size(), CPU, dtype, seed)


def test_every_part_is_measured_and_said_with_its_origin(ran: Path) -> None:
    data = json.loads(ran.read_text())
    assert list(data["parts"]) == sorted(data["parts"])
    assert set(data["parts"]) == {"peaks", "build", "memory", "probe", "latency/8", "latency/4", "latency/2"}
    assert {"torch", "transformers", "python", "cuda"} <= set(data["versions"])
    assert data["asked"]["seed"] == 0
    found = data["parts"]["probe"]
    assert (found["samples"], found["batch_size"], len(found["scores"]["values"])) == (16, 16, 8)
    assert found["goal_reached"] is None  # 16 samples say nothing of 512
    rows = [data["parts"][f"latency/{keep}"] for keep in (8, 4, 2)]
    languages = [row["flops"]["language"] for row in rows]
    assert languages[0] == 2 * languages[1] == 4 * languages[2]
    assert len({row["flops"]["vision"] for row in rows}) == 1
    assert all(row["over_floor"] == pytest.approx(row["median_ms"] / row["floor_ms"]["sum"]) for row in rows)


def test_only_the_missing_part_is_measured_again(load: Any, ran: Path, tmp_path: Path) -> None:
    data = json.loads(ran.read_text())
    lost = data["parts"].pop("latency/4")
    path = tmp_path / "torn.json"
    path.write_text(json.dumps(data))
    load("oft_probe_gpu").main([str(path), *ASKED])
    again = json.loads(path.read_text())
    assert {k: v for k, v in again["parts"].items() if k != "latency/4"} == data["parts"]
    assert again["parts"]["latency/4"]["flops"] == lost["flops"]


def test_another_seed_never_continues_a_result(load: Any, ran: Path) -> None:
    before = ran.read_bytes()
    with pytest.raises(SystemExit, match=r"written with another asked: give another file name"):
        load("oft_probe_gpu").main([str(ran), *ASKED, "--seed", "1"])
    assert ran.read_bytes() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(load: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"finds no CUDA device: run this on a GPU, or add --tiny --device cpu"):
        load("oft_probe_gpu").main([str(tmp_path / "result.json")])


def test_what_is_built_from_meta_has_a_value_everywhere_and_depends_on_the_seed(load: Any) -> None:
    model, same, other = tiny(load), tiny(load), tiny(load, seed=1)
    assert all(value.device == CPU and torch.isfinite(value).all() for value in model.module.state_dict().values())
    assert {p.dtype for p in tiny(load, torch.bfloat16).module.parameters()} == {torch.bfloat16}
    assert model.identity() == same.identity() != other.identity()
    batch = model.collate(load("oft_random").samples(model.io, 2, 0))
    assert torch.isfinite(model.chunk(batch)).all()
    assert torch.equal(model.chunk(batch), same.chunk(batch))


def test_a_probe_that_computes_activations_twice_finds_the_same_scores(load: Any) -> None:
    model = tiny(load, torch.bfloat16)
    batches = [model.collate(load("oft_random").samples(model.io, 3, 0))]
    with checkpointed(model):
        twice = probe(model, batches, "language")
    assert twice.values == probe(model, batches, "language").values
    assert min(twice.values) > 0


def test_counted_flops_of_a_block_are_the_formulas(load: Any) -> None:
    """2 P T + 4 T^2 d, and T as the network has it."""
    script = load("oft_random")
    model = tiny(load)
    shape, io = model.config.language, model.io
    tokens = 2 * model.config.patches + io.prompt.max_tokens + model.config.slots + 3
    matrices = 4 * shape.width**2 + 3 * shape.width * shape.mlp_width
    _, blocks = count_flops(model, model.collate(script.samples(io, 1, 0)), LANGUAGE)
    assert set(blocks) == {2 * matrices * tokens + 4 * tokens**2 * shape.width}


def test_the_floor_is_that_of_the_published_sizes(load: Any) -> None:
    """Worked out for 790 TFLOP/s and 4.3 TB/s: 11.3, 6.2, 3.7 and 1.8 ms; 605 tokens, 202.4 M parameters a block."""
    script, config = load("device_peak"), load("oft_random").full_size()[0]
    tokens = 2 * config.patches + load("oft_random").PROMPT_TOKENS + config.slots + 3
    assert tokens == 605
    block = 4 * 4096**2 + 3 * 4096 * 11008
    for keep, wanted in ((32, 11.3), (16, 6.2), (8, 3.7), (2, 1.8)):
        flops = {"language": keep * (2 * block * tokens + 4 * tokens**2 * 4096), "vision": 839e9, "heads": 0.0}
        moved = {"language": 2 * keep * block, "vision": 1.57e9, "heads": 0.34e9}
        assert script.floor(flops, moved, 790e12, 4.3e12)["sum"] == pytest.approx(wanted, abs=0.06)
    slow = script.floor({"language": 1.0}, {"language": 4.3e9}, 790e12, 4.3e12)
    assert slow == {"language": 1.0, "sum": 1.0}  # bound by reading


@pytest.mark.parametrize(
    ("fixed", "kept", "again", "budget", "wanted"),
    [
        (15, 4.0, 0.4, 72, (False, 8)),  # 14 fit
        (15, 1.0, 0.4, 72, (False, 32)),
        (15, 4.0, 0.4, 22, (True, 16)),  # one fits; with less kept 17
        (15, 9.0, 6.0, 22, (True, 1)),
        (15, float("inf"), 0.4, 22, (True, 16)),
        (10, 0.0, 0.0, 22, (False, 32)),
    ],
)
def test_the_batch_is_the_largest_power_of_two_that_fits(
    load: Any, fixed: float, kept: float, again: float, budget: float, wanted: tuple[bool, int]
) -> None:
    found = load("batch_size").choose(lambda n, twice: fixed + n * (again if twice else kept), budget, 32)
    assert (found["checkpointing"], found["batch_size"]) == wanted
    json.dumps(found, allow_nan=False)


def test_a_device_without_room_for_one_sample_is_refused(load: Any) -> None:
    with pytest.raises(SystemExit, match="not even one sample fits"):
        load("batch_size").choose(lambda n, twice: 30.0 + n, 22.0, 32)
