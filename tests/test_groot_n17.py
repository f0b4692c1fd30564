# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.7: the VLM against transformers' Qwen3-VL, the action head against plain formulas, NVIDIA's folders."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_cases import samples_for, scramble, tiny_io
from family_groot_n17 import IMAGE_TOKEN, TINY, VISION, io, make
from safetensors.torch import load_file, save_file
from test_family_conformance import plan_of
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, mse_loss, silu
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLModel

from compress.dtr.drop import DropError, drop
from compress.models.base import Batch, ModelError, Surgery
from compress.models.flow import noise_and_time, start_noise
from compress.models.groot import INPUTS, GrootN17
from compress.models.groot_config import (
    PUBLISHED_VLM,
    GrootConfig,
    HeadShape,
    from_nvidia,
    published_vlm,
    text_config,
    vision_config,
)
from compress.models.groot_files import renamed
from compress.models.groot_module import GrootNetwork
from compress.models.registry import load_model
from compress.trim import dead_tensors, trim
from runtime.contract.conventions import NormMethod

EXACT = {"rtol": 1e-5, "atol": 1e-6}
ROBOTS, ROBOT = 3, 2
HEAD, EARLY = TINY.head, len(TINY.vlm.taps)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def policy(seed: int = 0) -> GrootN17:
    made = make(seed)
    assert isinstance(made, GrootN17)
    return made


def inputs(batch: Batch) -> tuple[Tensor, ...]:
    return tuple(batch.inputs[name] for name in INPUTS)


# --- the VLM is transformers' own -----------------------------------------------------------------------------------


def qwen_config(depth: int) -> Qwen3VLConfig:
    return Qwen3VLConfig(
        text_config=text_config(replace(TINY, depth=depth)).to_dict(),
        vision_config=vision_config(TINY).to_dict(),
        image_token_id=IMAGE_TOKEN,
        video_token_id=IMAGE_TOKEN + 50,
    )


def qwen_patches(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) as Qwen's processor lays it out (merge cells, two equal frames, flat patches), and the grids."""
    p, m = TINY.vlm.patch_size, TINY.vlm.merge
    rows, side = [], pixels.shape[-1] // p
    for image in pixels:
        for cell in np.ndindex(side // m, side // m, m, m):
            top, left = (cell[0] * m + cell[2]) * p, (cell[1] * m + cell[3]) * p
            patch = image[:, top : top + p, left : left + p]
            rows.append(torch.stack([patch, patch], dim=1).flatten())
    return torch.stack(rows), torch.tensor([[1, side, side]] * len(pixels))


def stock_states(stock: Qwen3VLModel, batch: Batch, index: int, left: int) -> Tensor:
    """What upstream's action head reads: the last block's output for one sample, padded on the left as it pads."""
    pixels, ids, mask, _ = (x[index : index + 1] for x in inputs(batch))
    real = int(mask.sum())
    ids, mask = (torch.cat([torch.zeros(1, left, dtype=torch.long), x[:, :real]], 1) for x in (ids, mask))
    seen: list[Tensor] = []
    handle = stock.language_model.layers[-1].register_forward_hook(lambda _m, _i, out: seen.append(out))
    values, grid = qwen_patches(pixels[0])
    kinds = (ids == IMAGE_TOKEN).int()
    stock(input_ids=ids, attention_mask=mask, pixel_values=values, image_grid_thw=grid, mm_token_type_ids=kinds)
    handle.remove()
    return seen[0][:, left:]


@pytest.mark.parametrize("left", [0, 3])
@torch.no_grad()
def test_vlm_is_transformers_qwen3_vl_before_its_last_norm(left: int) -> None:
    model = policy()
    batch = model.collate(samples_for(model, 3))
    stock = Qwen3VLModel(qwen_config(TINY.depth)).eval()
    theirs = {name: value.clone() for name, value in stock.state_dict().items()}
    mine = {f"vlm.{n}": v for n, v in model.module.vlm.state_dict().items()}
    names = {
        n: next(iter(renamed({f"backbone.model.model.{n}": v}, 0, EARLY, Path())), None) for n, v in theirs.items()
    }
    assert set(filter(None, names.values())) == set(mine)
    stock.load_state_dict({n: mine.get(names[n] or "", v) for n, v in theirs.items()})
    found, pictured = model.module.vlm(*inputs(batch)[:3])
    for index in range(3):
        wanted = stock_states(stock, batch, index, left)
        torch.testing.assert_close(found[index : index + 1, : wanted.shape[1]], wanted, rtol=1e-4, atol=1e-5)
    assert pictured.sum(1).tolist() == [8, 8, 8]


@torch.no_grad()
def test_images_are_found_wherever_the_prompt_holds_them() -> None:
    """Positions of words and images come from the ids: words between and behind images too."""
    model = policy()
    conventions = replace(io(), prompt=replace(io().prompt, template=f"look {VISION}and {VISION}do {{instruction}}"))
    moved = GrootN17(TINY, conventions)
    moved.module.load_state_dict(model.module.state_dict())
    batch = moved.collate(samples_for(moved, 1))
    stock = Qwen3VLModel(qwen_config(TINY.depth)).eval()
    pictured = batch.inputs["input_ids"] == IMAGE_TOKEN
    wanted, _ = stock.get_rope_index(
        batch.inputs["input_ids"], pictured.int(), torch.tensor([[1, 4, 4]] * 2), None, batch.inputs["attention_mask"]
    )
    real = batch.inputs["attention_mask"].bool()[0]
    assert torch.equal(moved.module.vlm.positions(pictured)[:, :, real], wanted[:, :, real])


@torch.no_grad()
def test_padding_is_never_seen() -> None:
    """Upstream lets padding into its context blocks when it pads; alone, it has none. Here there is never any."""
    model = policy()
    batch = model.collate(samples_for(model, 2))
    before = model.chunk(batch)
    hidden = torch.where(batch.inputs["attention_mask"] == 0, 77, batch.inputs["input_ids"])
    assert not torch.equal(hidden, batch.inputs["input_ids"])
    changed = Batch({**batch.inputs, "input_ids": hidden}, batch.actions, batch.pad, batch.sample_ids)
    assert torch.equal(model.chunk(changed), before)
    longer = replace(io(), prompt=replace(io().prompt, max_tokens=48))
    roomy = GrootN17(TINY, longer)
    roomy.module.load_state_dict(model.module.state_dict())
    torch.testing.assert_close(roomy.chunk(roomy.collate(samples_for(roomy, 2))), before, rtol=1e-5, atol=1e-5)


# --- the action head, in plain formulas from upstream's description -------------------------------------------------


class Formulas:
    """Velocity of one sample without padding, from the weights by name."""

    def __init__(self, model: GrootN17, batch: Batch, index: int) -> None:
        self.w = {name.removeprefix("head."): value for name, value in model.module.named_parameters()}
        pixels, ids, mask, state = (x[index : index + 1] for x in inputs(batch))
        hidden, pictured = model.module.vlm(pixels, ids, mask)
        real = int(mask.sum())
        self.pictured = pictured[0, :real]
        tokens = self.norm(hidden[0, :real], "vlln")
        for i in range(HEAD.context_blocks):
            p = f"vl_self_attention.transformer_blocks.{i}."
            tokens = tokens + self.attention(p, HEAD.context_heads, self.norm(tokens, f"{p}norm1"), None)
            tokens = tokens + self.forward(p, self.norm(tokens, f"{p}norm3"))
        self.tokens = tokens
        filled = torch.zeros(TINY.max_state_dim)
        filled[: state.shape[1]] = state[0].clamp(-1, 1)
        self.state = self.two_layers("state_encoder", filled[None])

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x: Tensor, name: str) -> Tensor:
        return layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-5)

    def two_layers(self, name: str, x: Tensor) -> Tensor:
        return self.linear(self.linear(x, f"{name}.layer1").relu(), f"{name}.layer2")

    def forward(self, p: str, x: Tensor) -> Tensor:
        return self.linear(gelu(self.linear(x, f"{p}ff.net.0.proj"), approximate="tanh"), f"{p}ff.net.2")

    def attention(self, p: str, heads: int, x: Tensor, read: Tensor | None) -> Tensor:
        read = x if read is None else read
        q, k, v = (
            self.linear(s, f"{p}attn1.to_{n}").unflatten(-1, (heads, -1))
            for s, n in ((x, "q"), (read, "k"), (read, "v"))
        )
        weight = (torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.linear(torch.einsum("hqk,khd->qhd", weight, v).flatten(1), f"{p}attn1.to_out.0")

    def velocity(self, noisy: Tensor, tick: int) -> Tensor:
        """(max_horizon, max_action_dim) at a whole tick."""
        half = 128
        angle = tick * torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
        time = torch.cat([angle.cos(), angle.sin()])[None]
        embed = "model.timestep_encoder.timestep_embedder.linear_"
        time = self.linear(silu(self.linear(time, f"{embed}1")), f"{embed}2")
        half = HEAD.width // 2
        angle = tick * torch.exp(-math.log(10_000) * torch.arange(half) / half)
        clock = torch.cat([angle.sin(), angle.cos()]).expand(len(noisy), -1)
        seen = torch.cat([self.linear(noisy, "action_encoder.W1"), clock], 1)
        steps = self.linear(silu(self.linear(seen, "action_encoder.W2")), "action_encoder.W3")
        x = torch.cat([self.state, steps + self.w["position_embedding.weight"][: len(noisy)]])
        for i in range(HEAD.blocks):
            p = f"model.transformer_blocks.{i}."
            scale, shift = self.linear(silu(time), f"{p}norm1.linear").chunk(2, 1)
            read = {0: self.tokens[~self.pictured], 2: self.tokens[self.pictured]}.get(i % 4)
            x = x + self.attention(p, HEAD.heads, layer_norm(x, x.shape[-1:]) * (1 + scale) + shift, read)
            x = x + self.forward(p, layer_norm(x, x.shape[-1:]))
        shift, scale = self.linear(silu(time), "model.proj_out_1").chunk(2, 1)
        x = self.linear(layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift, "model.proj_out_2")
        return self.two_layers("action_decoder", x)[-len(noisy) :]


@torch.no_grad()
def test_loss_is_flow_matching_over_the_robots_part() -> None:
    """Noise fills the network's whole chunk; targets beyond -1..1 are limited; padded steps carry no error."""
    model = policy()
    first, second = samples_for(model, 2)
    wild = first.actions.copy()
    wild[1] *= 5.0
    batch = model.collate([replace(first, actions=wild), replace(second, pad=np.array([False, False, True, True]))])
    assert batch.actions.abs().max() > 1.0
    shape = (TINY.max_horizon, TINY.max_action_dim)
    noise, remaining = noise_and_time(batch.sample_ids, shape, 9, torch.device("cpu"), torch.float32)
    for index, real in ((0, 4), (1, 2)):
        target = torch.zeros(shape)
        target[:4, :7] = batch.actions[index].clamp(-1, 1)
        time = 1.0 - remaining[index]
        noisy = (1 - time) * noise[index] + time * target
        found = Formulas(model, batch, index).velocity(noisy, int(time * 1000))
        wanted = mse_loss(found[:real, :7], (target - noise[index])[:real, :7])
        torch.testing.assert_close(model.loss(batch, 9)[index], wanted, **EXACT)


@torch.no_grad()
def test_chunk_is_an_euler_walk_in_whole_ticks() -> None:
    model = policy()
    batch = model.collate(samples_for(model, 2))
    walked = []
    for index in range(2):
        formulas, x = Formulas(model, batch, index), start_noise((TINY.max_horizon, TINY.max_action_dim), 4)
        for tick in (0, 333, 666):
            x = x + formulas.velocity(x, tick) / TINY.steps
        walked.append(x[:4, :7].clamp(-1, 1))
    assert float((torch.stack(walked).abs() < 1).float().mean()) > 0.1
    wanted = model.io.physical(torch.stack(walked))
    torch.testing.assert_close(model.chunk(batch, 4), wanted, rtol=1e-5, atol=1e-5)


# --- what may leave -------------------------------------------------------------------------------------------------


def test_diffusion_blocks_leave_in_aligned_fours_and_stubs_anywhere() -> None:
    model = policy()
    with pytest.raises(DropError, match="from their units of 4"):
        drop(model, plan_of(model, "action", (2, 3), form="compact"))
    drop(model, plan_of(model, "action", (4, 5, 6, 7), form="compact"))
    assert model.surgery["action"] == Surgery(8, (0, 1, 2, 3))
    drop(model, replace(plan_of(model, "action", (3,), form="stub"), depth=8))
    assert [block.reads for block in model.module.head.model.transformer_blocks] == ["text", None, "images", None]


def test_tapped_vision_blocks_stay_in_the_list() -> None:
    model = policy()
    with pytest.raises(DropError, match=r"pinned blocks \[2\]"):
        drop(model, plan_of(model, "vision.qwen", (2,), form="compact"))
    drop(model, plan_of(model, "vision.qwen", (1, 3), form="compact"))
    assert [block.place for block in model.module.vlm.visual.blocks] == [0, 2]
    assert torch.isfinite(model.chunk(model.collate(samples_for(model, 1)))).all()


def test_the_lossless_pass_finds_nothing_to_take() -> None:
    """The two weights of no effect that upstream computes with were never built."""
    model = policy()
    batch = model.collate(samples_for(model, 3))
    assert dead_tensors(model, [batch]) == set()
    assert trim(model, [batch]).removed == ()


def test_full_size_is_the_published_3b() -> None:
    """Of its 32 robots' encoders, one is built."""
    config = from_nvidia(
        {"model_type": "Gr00tN1d7", "model_name": PUBLISHED_VLM, "vl_self_attention_cfg": {"num_layers": 4}},
        None, True, "config.json",
    )  # fmt: skip
    assert config == GrootConfig(published_vlm(), 16, HeadShape(32, 32, 48, 1024, 4, 32))
    with torch.device("meta"):
        network = GrootNetwork(config, 256)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    head, one = (
        network.head,
        sum(map(count, (network.head.state_encoder, network.head.action_encoder, network.head.action_decoder))),
    )
    assert [len(network.vlm.early), len(network.vlm.layers), len(network.vlm.visual.blocks)] == [3, 13, 24]
    assert network.vlm.image_tokens == 64
    assert count(network.vlm.layers[0]) == pytest.approx(50.3e6, rel=0.01)
    assert count(head.model.transformer_blocks[0]) > count(head.model.transformer_blocks[1])
    assert (count(network) + 31 * one) == pytest.approx(3.14e9, rel=0.02)
    assert 31 * one == pytest.approx(0.33e9, rel=0.05)


# --- NVIDIA's folder ------------------------------------------------------------------------------------------------


class PerRobot(nn.Module):
    """Tensors of one linear layer for every robot, as upstream stacks them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(inputs * outputs)
        self.W = nn.Parameter(torch.randn(ROBOTS, inputs, outputs, generator=draw))
        self.b = nn.Parameter(torch.randn(ROBOTS, outputs, generator=draw))


def upstream_weights() -> dict[str, Tensor]:
    """Tensors under NVIDIA's names: transformers' class, the head's own names, encoders of three robots."""
    model = policy(5)
    backbone = Qwen3VLForConditionalGeneration(qwen_config(TINY.depth))
    scramble(backbone, 6)
    found = {f"backbone.model.{name}": value for name, value in backbone.state_dict().items()}
    encoders = ("state_encoder.", "action_encoder.", "action_decoder.")
    for name, module in model.module.head.named_modules():
        if isinstance(module, nn.Linear) and name.startswith(encoders):
            found |= {
                f"action_head.{name}.{part}": value
                for part, value in PerRobot(module.in_features, module.out_features).state_dict().items()
            }
    found |= {
        f"action_head.{name}": value
        for name, value in model.module.head.state_dict().items()
        if not name.startswith(encoders)
    }
    return {name: value.detach().contiguous().clone() for name, value in found.items()}


def ranges(low: float, size: int) -> dict[str, list[float]]:
    first = np.linspace(low, low + 0.1, size)
    return {
        "min": first.tolist(),
        "max": (first + 1).tolist(),
        "q01": (first + 0.1).tolist(),
        "q99": (first + 0.8).tolist(),
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in NVIDIA's layout, with what this project needs beside it."""
    folder = tmp_path_factory.mktemp("nvidia") / "policy"
    folder.mkdir()
    weights = upstream_weights()
    parts = [dict(list(weights.items())[::2]), dict(list(weights.items())[1::2])]
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / name)
    index = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    blocks = {"norm_type": "ada_norm", "interleave_self_attention": True, "positional_embeddings": None}
    robot = {
        "video": {"delta_indices": [0], "modality_keys": ["image", "wrist_image"]},
        "state": {"delta_indices": [0], "modality_keys": ["pose", "gripper"]},
        "action": {
            "delta_indices": list(range(4)), "modality_keys": ["move", "close"],
            "action_configs": [{"rep": "ABSOLUTE"}, {"rep": "ABSOLUTE"}],
        },
    }  # fmt: skip
    statistics = {
        "state": {"gripper": ranges(0.0, 2), "pose": ranges(-1.0, 6)},
        "action": {"move": ranges(-0.5, 6), "close": ranges(-1.0, 1)},
    }
    files = {
        "model.safetensors.index.json": {"weight_map": index},
        "config.json": {
            "model_type": "Gr00tN1d7", "model_name": "some/vlm", "select_layer": TINY.depth,
            "hidden_size": HEAD.hidden, "max_state_dim": 12, "max_action_dim": 10, "action_horizon": 6,
            "num_inference_timesteps": 3, "max_seq_len": 16, "max_num_embodiments": ROBOTS,
            "diffusion_model_cfg": {**blocks, "num_layers": 8, "num_attention_heads": 4, "attention_head_dim": 8},
            "vl_self_attention_cfg": {"num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 12},
        },
        "vlm_config.json": qwen_config(28).to_dict(),
        "processor_config.json": {
            "processor_class": "Gr00tN1d7Processor",
            "processor_kwargs": {"modality_configs": {"libero_sim": robot}, "use_percentiles": True},
        },
        "statistics.json": {"libero_sim": statistics},
        "embodiment_id.json": {"new_embodiment": 0, "libero_sim": ROBOT},
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).write_text(json.dumps(data))
    for name, data in io().files().items():
        if name != "normalization.safetensors":
            (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    copy = tmp_path / "policy"
    copy.mkdir()
    for path in published.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_published_folder_is_read_for_its_robot(published: Path, tmp_path: Path) -> None:
    model = load_model("groot_n17", published)
    assert isinstance(model, GrootN17)
    assert model.config == TINY
    weights, mine = upstream_names(published), model.module.state_dict()
    assert torch.equal(mine["head.state_encoder.layer1.weight"], weights["action_head.state_encoder.layer1.W"][ROBOT].T)
    assert torch.equal(mine["head.action_encoder.W2.bias"], weights["action_head.action_encoder.W2.b"][ROBOT])
    name = "language_model.layers.3.mlp.up_proj.weight"
    assert torch.equal(mine["vlm.layers.1.mlp.up_proj.weight"], weights[f"backbone.model.model.{name}"])
    state, action = model.io.normalizers.state, model.io.normalizers.action
    assert state.method is action.method is NormMethod.Q01_Q99
    np.testing.assert_allclose(state.first, [*ranges(-1.0, 6)["q01"], *ranges(0.0, 2)["q01"]])  # the processor's order
    np.testing.assert_allclose(action.second, [*ranges(-0.5, 6)["q99"], *ranges(-1.0, 1)["q99"]])
    batch = model.collate(samples_for(model, 2))
    model.save(tmp_path / "own")
    assert torch.equal(GrootN17.load(tmp_path / "own").chunk(batch), model.chunk(batch))


def upstream_names(folder: Path) -> dict[str, Tensor]:
    return {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}


def test_tensors_that_reach_no_action_change_nothing(folder: Path) -> None:
    model = GrootN17.load(folder)
    batch = model.collate(samples_for(model, 1))
    weights = upstream_names(folder)
    for name in ("backbone.model.lm_head.weight", "backbone.model.model.language_model.norm.weight"):
        weights[name] = weights[name] + 1
    others = [name for name in weights if name.endswith((".W", ".b"))]
    for name in others:
        weights[name][[0, 1]] += 1
    for path in (*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"):
        path.unlink()
    save_file(weights, folder / "model.safetensors")
    assert len(others) == 14
    assert model.unloaded == {
        **{
            name: weights[name].numel()
            for name in weights
            if "lm_head" in name or name.endswith("language_model.norm.weight")
        },
        **{name: weights[name][:2].numel() for name in others},
    }
    assert torch.equal(GrootN17.load(folder).chunk(batch), model.chunk(batch))


def relative(data: dict[str, Any]) -> None:
    kwargs = data["processor_kwargs"]
    kwargs["use_relative_action"] = True
    kwargs["modality_configs"]["libero_sim"]["action"]["action_configs"][0]["rep"] = "RELATIVE"


def still(data: dict[str, Any]) -> None:
    close = data["libero_sim"]["action"]["close"]
    close["q99"] = close["q01"]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda d: d.update(model_type="gr00t_n1_5"), r"model_type is 'gr00t_n1_5'.*N1\.7"),
        ("config.json", lambda d: d.update(state_history_length=2), "state_history_length"),
        ("config.json", lambda d: d.update(model_name="other/vlm"), None),
        ("config.json", lambda d: d["diffusion_model_cfg"].update(norm_type="layer_norm"), "norm_type"),
        ("config.json", lambda d: d["diffusion_model_cfg"].update(num_layers=4), "unknown tensors"),
        ("config.json", lambda d: d.update(select_layer=4), "unknown tensors"),
        ("processor_config.json", relative, r"actions \['move'\] are relative to the current state"),
        ("processor_config.json", lambda d: d["processor_kwargs"].update(use_mean_std=True), "use_mean_std"),
        ("processor_config.json", lambda d: d.pop("processor_kwargs"), "expected `processor_kwargs`"),
        ("embodiment_id.json", lambda d: d.pop("libero_sim"), r"robot 'libero_sim' is not described.*knows \[\]"),
        ("embodiment_id.json", lambda d: d.update(libero_sim=7), "is for 3 robots, this one is number 7"),
        ("statistics.json", lambda d: d.update(other=d["libero_sim"]), r"several robots.*embodiment\.json"),
        ("statistics.json", lambda d: d["libero_sim"]["action"]["move"].pop("q99"), "action has no usable"),
        ("statistics.json", lambda d: d["libero_sim"]["state"].update(pose=ranges(0.0, 5)), r"of \(7, 7\) \(state"),
        ("statistics.json", still, r"action dimensions \[6\] never move"),
        ("vlm_config.json", lambda d: d["text_config"].update(hidden_act="gelu"), r"vlm_config\.json"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    folder: Path, file: str, change: Callable[[dict[str, Any]], None], message: str | None
) -> None:
    edit(folder / file, change)
    if message is None:  # its sizes are beside it, so its name does not matter
        assert GrootN17.load(folder).config == TINY
        (folder / "vlm_config.json").unlink()
        message = r"sizes of 'other/vlm' are not known"
    with pytest.raises(ModelError, match=message):
        GrootN17.load(folder)


def test_the_robot_is_chosen_by_name(folder: Path) -> None:
    edit(folder / "statistics.json", lambda d: d.update(other={}))
    (folder / "embodiment.json").write_text(json.dumps({"embodiment": "libero_sim"}))
    assert GrootN17.load(folder).config == TINY
    (folder / "embodiment.json").write_text(json.dumps({"embodiment": "nobody"}))
    with pytest.raises(ModelError, match=r"'nobody', expected one of \['libero_sim', 'other'\]"):
        GrootN17.load(folder)


def test_cameras_are_those_of_the_training(folder: Path) -> None:
    one = tiny_io(template=f"{VISION}{{instruction}}", max_tokens=40, cameras=("agentview",))
    (folder / "policy_io.json").write_bytes(one.files()["policy_io.json"])
    with pytest.raises(ModelError, match=r"cameras \['agentview'\].*trained on \['image', 'wrist_image'\]"):
        GrootN17.load(folder)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{instruction}", r"0 image tokens \(id 403\), the 2 cameras need 8"),
        (VISION + "{instruction}", "4 image tokens"),
        (VISION * 8 + "{instruction}", "expected 1 to 40"),
    ],
)
def test_the_prompt_has_a_place_for_every_image_token(template: str, message: str) -> None:
    conventions = replace(io(), prompt=replace(io().prompt, template=template))
    with pytest.raises(ModelError, match=message):
        GrootN17(TINY, conventions)


def test_a_robot_that_is_too_large_is_refused() -> None:
    with pytest.raises(ModelError, match="no room for: state of 8; chunk of 4 steps"):
        GrootN17(replace(TINY, max_state_dim=7, max_horizon=3), io())
