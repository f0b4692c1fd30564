# SPDX-License-Identifier: Apache-2.0
"""SmolVLA: the cached path against transformers' own classes and a joint single pass; pairs; LeRobot's folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_cases import samples_for, scramble, tiny_io
from family_smolvla import DEPTH, TINY, make
from safetensors.torch import load_file, save_file
from test_family_conformance import gated, plan_of
from torch import Tensor, nn
from transformers import AutoModel, DynamicCache, SmolVLMForConditionalGeneration, SmolVLMModel

from compress.dtr.drop import drop
from compress.gateprobe import probe
from compress.models.base import ModelError, Surgery
from compress.models.flow import noise_and_time, start_noise
from compress.models.registry import load_model
from compress.models.smolvla import INPUTS, SmolVla
from compress.models.smolvla_config import PUBLISHED_VLM, SmolVlaConfig, expert_config, published_vlm, vlm_config
from compress.models.smolvla_files import LM_HEAD, TEXT_NORM, rename
from compress.models.smolvla_module import SmolVlaNetwork
from compress.probing import find_group
from compress.trim import trim
from runtime.contract.conventions import NormMethod
from runtime.contract.normalization import Normalization, Normalizers

EXACT = {"rtol": 1e-5, "atol": 1e-6}
STATISTICS = {
    "observation.state.mean": torch.linspace(-0.2, 0.2, 8),
    "observation.state.std": torch.linspace(0.5, 1.5, 8),
    "action.mean": torch.linspace(-0.1, 0.1, 7),
    "action.std": torch.linspace(0.2, 0.8, 7),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def policy(seed: int = 0) -> SmolVla:
    made = make(seed)
    assert isinstance(made, SmolVla)
    return made


# --- an oracle that never caches: prefix and chunk in one pass, from upstream's description -------------------------


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + TINY.text.norm_eps).sqrt() * weight


def rope(x: Tensor, places: Tensor) -> Tensor:
    """(B, L, heads, D): pairs (i, i + D/2) turn by place / 10000^(2i/D)."""
    half = x.shape[-1] // 2
    angle = places[:, :, None, None] / 10_000.0 ** (2.0 / x.shape[-1] * torch.arange(half))
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """(B, Q, heads, D) over (B, K, KV heads, D), where mask (B, Q, K) is true."""
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], dim=2) for x in (k, v))
    score = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    weight = score.masked_fill(~mask[:, None], float("-inf")).nan_to_num(neginf=-1e30).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weight, v).flatten(2)


def oracle_velocity(model: SmolVla, inputs: Mapping[str, Tensor], noisy: Tensor, time: Tensor) -> Tensor:
    """Velocity by one joint pass; time (B,)."""
    w, vlm, text = dict(model.module.named_parameters()), model.module.vlm, TINY.text
    pixels, ids, words, state = (inputs[name] for name in INPUTS)
    images = torch.stack(vlm.get_image_features(pixels).pooler_output)
    scale = text.width**0.5
    told = w["vlm.text_model.embed_tokens.weight"][ids] * scale
    padded = torch.cat([state, torch.zeros(len(state), TINY.max_state_dim - state.shape[1])], 1)
    known = padded @ w["state_proj.weight"].T + w["state_proj.bias"]
    left = torch.cat([images * scale, told, known[:, None]], 1)
    fraction = torch.linspace(0, 1, TINY.expert_width // 2, dtype=torch.float64)
    phase = time.double()[:, None] / (TINY.min_period * (TINY.max_period / TINY.min_period) ** fraction) * 2 * np.pi
    clock = torch.cat([phase.sin(), phase.cos()], 1).float()[:, None].expand(-1, noisy.shape[1], -1)
    act = noisy @ w["action_in_proj.weight"].T + w["action_in_proj.bias"]
    mixed = torch.cat([act, clock], 2) @ w["action_time_mlp_in.weight"].T + w["action_time_mlp_in.bias"]
    right = nn.functional.silu(mixed) @ w["action_time_mlp_out.weight"].T + w["action_time_mlp_out.bias"]
    n, m, size = left.shape[1], right.shape[1], len(left)
    real = torch.cat([torch.ones(size, images.shape[1]), words, torch.ones(size, 1 + m)], 1).bool()
    stage = torch.tensor([0] * (n - 1) + [1] * (1 + m)).cumsum(0)
    mask = (stage[None, :] <= stage[:, None])[None] & real[:, None, :] & real[:, :, None]
    places = real.long().cumsum(1) - 1
    sides = ("vlm.text_model.layers", "expert.layers")

    def project(x: Tensor, name: str) -> Tensor:
        return (x @ w[name].T).unflatten(-1, (-1, text.head_dim))

    for i in range(DEPTH):
        streams = [left, right]
        names = [f"{side}.{i}." for side in sides]
        entered = [rms(x, w[f"{p}input_layernorm.weight"]) for x, p in zip(streams, names, strict=True)]
        if i % 2 == 0:
            q, k, v = (
                torch.cat([project(x, f"{p}self_attn.{s}_proj.weight") for x, p in zip(entered, names, strict=True)], 1)
                for s in "qkv"
            )
            both = attend(rope(q, places), rope(k, places), v, mask)
            heard = [both[:, :n], both[:, n:]]
        else:
            q, k, v = (project(entered[0], f"{names[0]}self_attn.{s}_proj.weight") for s in "qkv")
            k = rope(k, places[:, :n])
            heard = [attend(rope(q, places[:, :n]), k, v, mask[:, :n, :n])]
            q = rope(project(entered[1], f"{names[1]}self_attn.q_proj.weight"), places[:, n:] - places[:, n : n + 1])
            k, v = (
                project(x.flatten(2), f"{names[1]}self_attn.{s}_proj.weight") for s, x in zip("kv", (k, v), strict=True)
            )
            heard.append(attend(q, k, v, mask[:, n:, :n]))
        done = []
        for x, h, p in zip(streams, heard, names, strict=True):
            x = x + h @ w[f"{p}self_attn.o_proj.weight"].T
            y = rms(x, w[f"{p}post_attention_layernorm.weight"])
            gate = nn.functional.silu(y @ w[f"{p}mlp.gate_proj.weight"].T) * (y @ w[f"{p}mlp.up_proj.weight"].T)
            done.append(x + gate @ w[f"{p}mlp.down_proj.weight"].T)
        left, right = done
    return rms(right, w["expert.norm.weight"]) @ w["action_out_proj.weight"].T + w["action_out_proj.bias"]


@torch.no_grad()
def test_cached_velocity_is_that_of_one_joint_pass() -> None:
    model = policy()
    batch = model.collate(samples_for(model, 3))
    noisy, time = torch.randn(3, TINY.horizon, TINY.max_action_dim), torch.tensor([0.05, 0.5, 1.0])
    prefix = model.module.read(*(batch.inputs[name] for name in INPUTS))
    found = model.module.velocity(prefix, noisy, model.module.time_features(time))
    torch.testing.assert_close(found, oracle_velocity(model, batch.inputs, noisy, time), **EXACT)


@torch.no_grad()
def test_loss_is_flow_matching_over_the_robots_dimensions() -> None:
    """Noise fills all dimensions of the network, the error is taken over those of the robot and real steps."""
    model = policy()
    first, second = samples_for(model, 2)
    batch = model.collate([first, replace(second, pad=np.array([False, False, True, True]))])
    shape = (TINY.horizon, TINY.max_action_dim)
    noise, time = noise_and_time(batch.sample_ids, shape, 9, torch.device("cpu"), torch.float32)
    target = torch.cat([batch.actions, torch.zeros(2, TINY.horizon, TINY.max_action_dim - 7)], 2)
    share = time[:, None, None]
    velocity = oracle_velocity(model, batch.inputs, share * noise + (1 - share) * target, time)
    error = (velocity - (noise - target)).square()[:, :, :7]
    wanted = torch.stack([error[0].mean(), error[1, :2].mean()])
    torch.testing.assert_close(model.loss(batch, 9), wanted, **EXACT)


@torch.no_grad()
def test_chunk_is_an_euler_walk_from_noise_to_actions() -> None:
    model = policy()
    batch = model.collate(samples_for(model, 2))
    x = start_noise((TINY.horizon, TINY.max_action_dim), 4).expand(2, -1, -1)
    for step in range(TINY.steps):
        time = torch.full((2,), 1.0 + step * (-1.0 / TINY.steps))
        x = x - oracle_velocity(model, batch.inputs, x, time) / TINY.steps
    torch.testing.assert_close(model.chunk(batch, 4), model.io.physical(x[..., :7]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_prefix_is_transformers_text_model_layer_by_layer() -> None:
    model = policy()
    batch = model.collate(samples_for(model, 3))
    seen: list[Tensor] = []
    layers = model.module.vlm.text_model.layers
    handles = [layer.register_forward_pre_hook(lambda _m, args: seen.append(args[0])) for layer in layers]
    prefix = model.module.read(*(batch.inputs[name] for name in INPUTS))
    for handle in handles:
        handle.remove()
    stock = SmolVLMModel(vlm_config(TINY)).eval()
    missing, extra = stock.load_state_dict(model.module.vlm.state_dict(), strict=False)
    assert missing == ["text_model.norm.weight"]
    assert not extra
    length = seen[0].shape[1]
    visible = torch.ones(3, length, length, dtype=torch.bool) & prefix.seen[:, None, :]
    visible[:, :-1, -1] = False
    mask = torch.where(visible, 0.0, torch.finfo(torch.float32).min)[:, None]
    cache = DynamicCache()
    hidden = stock.text_model(
        inputs_embeds=seen[0], attention_mask=mask, position_ids=prefix.seen.long().cumsum(1) - 1,
        cache=cache, use_cache=True, output_hidden_states=True,
    ).hidden_states  # fmt: skip
    for i in range(DEPTH):
        torch.testing.assert_close(seen[i], hidden[i], **EXACT)
        torch.testing.assert_close(prefix.layers[i][0], cache.layers[i].keys, **EXACT)
        torch.testing.assert_close(prefix.layers[i][1], cache.layers[i].values, **EXACT)


@pytest.mark.parametrize(("table", "side"), [(28, 28), (84, 84), (84, 56), (28, 56)])
@torch.no_grad()
def test_images_are_transformers_image_features(table: int, side: int) -> None:
    """Also where the images are not of the size of the table of positions."""
    config = replace(TINY, vision=replace(TINY.vision, image_size=table), scale_factor=side // 28)
    network = SmolVlaNetwork(config, side).eval()
    scramble(network, 0, scale=1.0)
    pixels = torch.randn(2, 3, 3, side, side)
    wanted = torch.stack(network.vlm.get_image_features(pixels).pooler_output)
    torch.testing.assert_close(network.see(pixels), wanted, **EXACT)


@torch.no_grad()
def test_who_sees_whom() -> None:
    """Images and words do not see the state; a step of the chunk sees no later step; padding is seen by none."""
    model = policy()
    batch = model.collate(samples_for(model, 1))
    read = lambda **new: model.module.read(*({**batch.inputs, **new}[name] for name in INPUTS))  # noqa: E731
    base, other = read(), read(state=batch.inputs["state"] + 1.0)
    for (k, v), (k2, v2) in zip(base.layers, other.layers, strict=True):
        assert torch.equal(k[:, :, :-1], k2[:, :, :-1])
        assert torch.equal(v[:, :, :-1], v2[:, :, :-1])
        assert not torch.equal(v[:, :, -1], v2[:, :, -1])
    noisy, clock = torch.randn(1, TINY.horizon, TINY.max_action_dim), model.module.time_features(torch.tensor([0.3]))
    before = model.module.velocity(base, noisy, clock)
    noisy[:, 2] += 1.0
    after = model.module.velocity(base, noisy, clock)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 3], after[:, 3])
    hidden = torch.where(batch.inputs["attention_mask"] == 0, 77, batch.inputs["input_ids"])
    assert not torch.equal(hidden, batch.inputs["input_ids"])
    assert torch.equal(model.module.velocity(read(input_ids=hidden), noisy, clock), after)


# --- dead weights ---------------------------------------------------------------------------------------------------


def test_dead_weights_are_those_without_gradient() -> None:
    model = policy()
    names, parameters = zip(*model.module.named_parameters(), strict=True)
    loss = model.loss(model.collate(samples_for(model, 3))).sum()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    silent = {n: p.numel() for n, p, g in zip(names, parameters, gradients, strict=True) if g is None or not g.any()}
    assert silent == model.dead_weights


def test_the_lossless_pass_takes_the_dead_weights_and_nothing_else(tmp_path: Path) -> None:
    model = policy()
    batch, dead = model.collate(samples_for(model, 3)), dict(model.dead_weights)
    whole, before = model.chunk(batch), set(model.module.state_dict())
    report = trim(model, [batch])
    assert before - set(model.module.state_dict()) == set(dead)
    assert sum(item.elements for item in report.removed) == sum(dead.values())
    assert not model.dead_weights
    assert model.lerobot_config() is None
    model.save(tmp_path / "trimmed")
    loaded = SmolVla.load(tmp_path / "trimmed")
    assert loaded.identity() == model.identity()
    assert torch.equal(loaded.chunk(batch), whole)


def test_full_size_is_the_published_450m() -> None:
    text, vision, scale_factor = published_vlm()
    config = SmolVlaConfig(PUBLISHED_VLM, text, vision, scale_factor, depth=16)
    with torch.device("meta"):
        network = SmolVlaNetwork(config, 512)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    blocks = network.vlm.text_model.layers
    assert count(blocks[0]) == 9_832_320
    assert count(blocks[0].mlp) == 7_372_800
    assert [count(network.expert.layers[i]) for i in (0, 1)] == [6_268_320, 6_012_320]
    assert len(blocks) == len(network.expert.layers) == 16
    assert len(network.vlm.vision_model.encoder.layers) == 12
    head, norm = text.vocabulary * text.width, text.width
    total = count(network) + head + norm
    last = count(blocks[15]) - count(blocks[15].input_layernorm) - 2 * text.width * text.kv_heads * text.head_dim
    assert total == pytest.approx(450e6, rel=0.002)
    assert (head + norm + last) / total == pytest.approx(0.126, abs=0.0005)
    assert network.places.shape == (1, 1024)
    assert torch.equal(network.places, torch.arange(1024)[None])


# --- pairs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [(0, 1), (1, 2), (2, 3), (3,)])
@torch.no_grad()
def test_compacted_pairs_are_both_gates_at_zero(run: tuple[int, ...], tmp_path: Path) -> None:
    model = policy(1)
    batch = model.collate(samples_for(model, 3))
    gates = [gated(model, find_group(model, role), i, "block", 0.0) for role in ("language", "action") for i in run]
    for gate in gates:
        gate.__enter__()
    wanted = model.loss(batch, 2), model.chunk(batch, 2)
    for gate in gates:
        gate.__exit__(None, None, None)
    whole = model.loss(batch, 2)
    model.compact_pairs(run)
    torch.testing.assert_close(model.loss(batch, 2), wanted[0], **EXACT)
    torch.testing.assert_close(model.chunk(batch, 2), wanted[1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(whole, wanted[0], rtol=1e-5)
    kept = tuple(i for i in range(DEPTH) if i not in run)
    assert model.surgery["language"] == model.surgery["action"] == Surgery(DEPTH, kept)
    model.save(tmp_path / "pruned")
    loaded = SmolVla.load(tmp_path / "pruned")
    assert torch.equal(loaded.chunk(batch, 2), model.chunk(batch, 2))
    assert loaded.identity() == model.identity()
    assert loaded.surgery == model.surgery


def test_compacted_pairs_are_stubs_of_both_without_their_slots() -> None:
    """Stubs first, then compaction of the same pairs: the answers stay, the last keys and values go."""
    model = policy(1)
    batch = model.collate(samples_for(model, 2))
    drop(model, [plan_of(model, role, (1, 2), form="stub") for role in ("language", "action")])
    stubbed, size = model.chunk(batch), sum(p.numel() for p in model.module.parameters())
    model.compact_pairs((1, 2))
    torch.testing.assert_close(model.chunk(batch), stubbed, rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in model.module.parameters()) < size
    assert model.surgery["language"] == Surgery(DEPTH, (0, 3))


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ((0,), r"blocks \[1, 2, 3\] would change their kind: pairs leave in runs of 2"),
        ((0, 2), "would change their kind"),
        ((0, 1, 2, 3), "cannot leave"),
        ((4,), "cannot leave"),
    ],
)
def test_pairs_that_would_shift_parity_stay(gone: tuple[int, ...], message: str) -> None:
    model = policy()
    before = model.identity()
    with pytest.raises(ModelError, match=message):
        model.compact_pairs(gone)
    assert model.identity() == before


def test_a_compacted_model_is_probed_and_dropped_by_original_index() -> None:
    model = policy(1)
    model.compact_pairs((0, 1))
    with pytest.raises(ModelError, match="cannot leave"):
        model.compact_pairs((1,))
    batch = model.collate(samples_for(model, 2))
    scores = probe(model, [batch], "language")
    assert scores.subject.blocks == (2, 3)
    assert scores.of(3) == 0.0
    assert scores.of(2) > 0.0
    plan = plan_of(model, "language", (), form="stub")
    drop(model, replace(plan, depth=DEPTH, kept=(3,), dropped=(2,)))
    assert model.surgery["language"] == Surgery(DEPTH, (2, 3), (2,), (2,))
    assert torch.isfinite(model.chunk(batch)).all()


# --- LeRobot's folder -----------------------------------------------------------------------------------------------


class Upstream(nn.Module):
    """Tensors under the names that LeRobot's policy gives them: transformers' classes put together as it does."""

    def __init__(self, config: SmolVlaConfig) -> None:
        super().__init__()
        shape, text = expert_config(config), config.text
        joint = nn.Module()
        joint.vlm = SmolVLMForConditionalGeneration(vlm_config(config))
        joint.lm_expert = AutoModel.from_config(shape)
        for i, layer in enumerate(joint.lm_expert.layers):
            if i % config.self_attention_every:
                size = text.kv_heads * text.head_dim
                layer.self_attn.k_proj, layer.self_attn.v_proj = (nn.Linear(size, size, bias=False) for _ in "kv")
        joint.lm_expert.embed_tokens = None
        self.model = nn.Module()
        self.model.vlm_with_expert = joint
        self.model.state_proj = nn.Linear(config.max_state_dim, text.width)
        self.model.action_in_proj = nn.Linear(config.max_action_dim, shape.hidden_size)
        self.model.action_out_proj = nn.Linear(shape.hidden_size, config.max_action_dim)
        self.model.action_time_mlp_in = nn.Linear(2 * shape.hidden_size, shape.hidden_size)
        self.model.action_time_mlp_out = nn.Linear(shape.hidden_size, shape.hidden_size)


def lerobot_json() -> dict[str, Any]:
    visual = {"type": "VISUAL", "shape": [3, 480, 640]}
    return {
        "type": "smolvla",
        "n_obs_steps": 1,
        "input_features": {
            "observation.state": {"type": "STATE", "shape": [8]},
            **{f"observation.images.camera{i}": visual for i in (1, 2)},
            "observation.images.empty_camera_0": visual,
        },
        "output_features": {"action": {"type": "ACTION", "shape": [7]}},
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
        "chunk_size": TINY.horizon,
        "n_action_steps": 1,
        "max_state_dim": TINY.max_state_dim,
        "max_action_dim": TINY.max_action_dim,
        "resize_imgs_with_padding": [28, 28],
        "empty_cameras": 1,
        "adapt_to_pi_aloha": False,
        "tokenizer_max_length": 48,
        "num_steps": TINY.steps,
        "vlm_model_name": "some/local-vlm",
        "attention_mode": "cross_attn",
        "num_vlm_layers": DEPTH,
        "num_expert_layers": 0,
        "self_attn_every_n_layers": 2,
        "expert_width_multiplier": 0.75,
        "min_period": 4e-3,
        "max_period": 4.0,
        "prefix_length": 0,
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in LeRobot's layout, with what this project needs beside it."""
    folder = tmp_path_factory.mktemp("lerobot") / "policy"
    folder.mkdir()
    upstream = Upstream(TINY)
    scramble(upstream, 5)
    save_file({n: v.contiguous().clone() for n, v in upstream.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(lerobot_json()))
    (folder / "vlm_config.json").write_text(json.dumps(vlm_config(replace(TINY, depth=32)).to_dict()))
    state = "policy_preprocessor_step_5_normalizer_processor.safetensors"
    steps = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {
            "registry_name": "normalizer_processor",
            "config": {"eps": 1e-8, "norm_map": lerobot_json()["normalization_mapping"]},
            "state_file": state,
        },
    ]
    (folder / "policy_preprocessor.json").write_text(json.dumps({"name": "policy_preprocessor", "steps": steps}))
    save_file({**STATISTICS, "observation.state.count": torch.tensor([9.0])}, folder / state)
    for name, data in tiny_io(template="{instruction}\n", method=NormMethod.MEAN_STD).files().items():
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


def edit_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


def test_published_folder_is_read_whole(published: Path, tmp_path: Path) -> None:
    """The answers are those of the tensors under upstream's names, and the statistics those of the folder."""
    model = load_model("smolvla", published)
    assert isinstance(model, SmolVla)
    tensors = load_file(published / "model.safetensors")
    mine = model.module.state_dict()
    assert len(mine) == len(tensors) - 2
    assert all(torch.equal(mine[rename(n) or ""], v) for n, v in tensors.items() if n not in (LM_HEAD, TEXT_NORM))
    assert model.config == replace(TINY, vlm="some/local-vlm")
    action = model.io.normalizers.action
    np.testing.assert_array_equal(action.first, STATISTICS["action.mean"].double().numpy())
    np.testing.assert_array_equal(action.second, STATISTICS["action.std"].double().numpy())
    batch = model.collate(samples_for(model, 2))
    model.save(tmp_path / "own")
    assert torch.equal(SmolVla.load(tmp_path / "own").chunk(batch), model.chunk(batch))


def test_dead_tensors_of_the_folder_change_nothing(folder: Path) -> None:
    model = SmolVla.load(folder)
    batch = model.collate(samples_for(model, 2))
    size = TINY.text.vocabulary * TINY.text.width
    assert model.unloaded == {LM_HEAD: size, TEXT_NORM: TINY.text.width}
    edit_weights(folder, lambda w: {n: v for n, v in w.items() if n != LM_HEAD} | {TEXT_NORM: w[TEXT_NORM] + 1})
    assert torch.equal(SmolVla.load(folder).chunk(batch), model.chunk(batch))


def test_compiled_half_precision_weights_are_read_as_single(folder: Path) -> None:
    edit_weights(folder, lambda w: {n.replace("model.", "model._orig_mod.", 1): v.bfloat16() for n, v in w.items()})
    model = SmolVla.load(folder)
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}


def old_buffers(prefix: str = "") -> dict[str, Tensor]:
    state, action = f"{prefix}buffer_observation_state", f"{prefix}buffer_action"
    s = {key: value.clone() for key, value in STATISTICS.items()}
    return {
        f"normalize_inputs.{state}.mean": s["observation.state.mean"],
        f"normalize_inputs.{state}.std": s["observation.state.std"],
        **{f"{side}.{action}.mean": s["action.mean"].clone() for side in ("normalize_targets", "unnormalize_outputs")},
        **{f"{side}.{action}.std": s["action.std"].clone() for side in ("normalize_targets", "unnormalize_outputs")},
    }


def test_older_folder_has_its_statistics_among_the_weights(folder: Path) -> None:
    wanted = SmolVla.load(folder).io.normalizers.to_bytes()
    (folder / "policy_preprocessor.json").unlink()
    edit_weights(folder, lambda w: w | old_buffers())
    assert SmolVla.load(folder).io.normalizers.to_bytes() == wanted
    edit_weights(folder, lambda w: w | {"unnormalize_outputs.buffer_action.std": torch.ones(7)})
    with pytest.raises(ModelError, match="differs from the same statistic"):
        SmolVla.load(folder)


def test_statistics_of_several_data_sets_belong_to_no_robot(folder: Path) -> None:
    """As published for the base policy: one set per data set, which upstream's loader then silently does not use."""
    (folder / "policy_preprocessor.json").unlink()
    edit_weights(folder, lambda w: w | old_buffers("so100_") | old_buffers("so100-blue_"))
    with pytest.raises(ModelError, match=r"so100-blue_action.*normalization\.safetensors"):
        SmolVla.load(folder)
    mine = Normalizers(*(Normalization.of(NormMethod.MEAN_STD, np.zeros(n), np.ones(n)) for n in (8, 7)))
    (folder / "normalization.safetensors").write_bytes(mine.to_bytes())
    assert SmolVla.load(folder).io.normalizers.to_bytes() == mine.to_bytes()


def test_a_dimension_that_never_moves_is_refused(folder: Path) -> None:
    path = next(folder.glob("policy_preprocessor_step_*"))
    still = STATISTICS["action.std"].clone()
    still[3] = 0.0
    save_file(STATISTICS | {"action.std": still}, path)
    with pytest.raises(ModelError, match=r"action dimensions \[3\] never move"):
        SmolVla.load(folder)


def test_statistics_file_may_not_lead_out_of_the_folder(folder: Path) -> None:
    step = {"registry_name": "normalizer_processor", "state_file": "../elsewhere.safetensors"}
    edit_json(folder / "policy_preprocessor.json", steps=[step])
    with pytest.raises(ModelError, match="expected a plain file name"):
        SmolVla.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "pi0"}, "policy type is 'pi0', expected 'smolvla'"),
        ({"add_image_special_tokens": True}, "add_image_special_tokens"),
        ({"adapt_to_pi_aloha": True}, "adapt_to_pi_aloha"),
        ({"num_vlm_layers": 16}, "num_vlm_layers is 16, the weights hold 4"),
        ({"num_expert_layers": 2}, "num_expert_layers is 2"),
        ({"chunk_size": 5}, "chunk of 4 steps, expected 5"),
        ({"resize_imgs_with_padding": [56, 28]}, "images of 28 x 28 px, expected 56 x 28"),
        ({"output_features": {"action": {"type": "ACTION", "shape": [6]}}}, "action of 7, expected 6"),
        ({"tokenizer_max_length": 8}, "prompts of 16 tokens, expected at most 8"),
        ({"self_attn_every_n_layers": 3}, "expert.layers.2"),
        ({"expert_width_multiplier": 0.5}, "the configuration expects"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    edit_json(folder / "config.json", **change)
    with pytest.raises(ModelError, match=message):
        SmolVla.load(folder)


def test_sizes_of_an_unknown_vlm_must_be_given(folder: Path) -> None:
    (folder / "vlm_config.json").unlink()
    with pytest.raises(ModelError, match=r"sizes of 'some/local-vlm' are not known.*vlm_config\.json"):
        SmolVla.load(folder)
    edit_json(folder / "config.json", vlm_model_name=PUBLISHED_VLM)
    with pytest.raises(ModelError, match="multiple of 64 px"):  # the published sizes do not fit this robot
        SmolVla.load(folder)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("text_config", "hidden_size", "wide"),
        ("text_config", "hidden_act", "gelu"),
        ("vision_config", "hidden_act", "relu"),
    ],
)
def test_another_kind_of_vlm_is_refused(folder: Path, part: str, field: str, value: str) -> None:
    data = json.loads((folder / "vlm_config.json").read_text())
    data[part][field] = value
    (folder / "vlm_config.json").write_text(json.dumps(data))
    with pytest.raises(ModelError, match=r"vlm_config\.json"):
        SmolVla.load(folder)


def test_every_tensor_has_a_use_or_a_reason(folder: Path) -> None:
    edit_weights(folder, lambda w: w | {"model.vlm_with_expert.lm_expert.lm_head.weight": torch.zeros(2, 2)})
    with pytest.raises(ModelError, match=r"unknown tensors \['expert\.lm_head\.weight'\]"):
        SmolVla.load(folder)


def test_robots_conventions_must_be_there(folder: Path) -> None:
    (folder / "policy_io.json").unlink()
    with pytest.raises(ModelError, match=r"policy_io\.json cannot be read.*say what the policy sees"):
        SmolVla.load(folder)


# --- back to LeRobot ------------------------------------------------------------------------------------------------


def test_pairs_can_be_said_in_lerobots_words(published: Path, tmp_path: Path) -> None:
    """Its configuration counts the pairs; its names and shapes are read back by the reader of published folders."""
    model = SmolVla.load(published)
    batch = model.collate(samples_for(model, 2))
    model.compact_pairs((0, 1))
    config = model.lerobot_config()
    assert config is not None
    assert config["num_vlm_layers"] == 2
    model.save_lerobot(tmp_path / "out")
    wanted = {n for n in Upstream(replace(TINY, depth=2)).state_dict() if n not in (LM_HEAD, TEXT_NORM)}
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == wanted
    for name in ("policy_io.json", "tokenizer.json", "vlm_config.json"):
        (tmp_path / "out" / name).write_bytes((published / name).read_bytes())
    (tmp_path / "out" / "normalization.safetensors").write_bytes(model.io.normalizers.to_bytes())
    assert torch.equal(SmolVla.load(tmp_path / "out").chunk(batch), model.chunk(batch))


@pytest.mark.parametrize(("role", "form"), [("language", "stub"), ("action", "stub"), ("vision.siglip", "compact")])
def test_what_lerobot_cannot_say_is_not_written(role: str, form: str, tmp_path: Path) -> None:
    model = policy()
    drop(model, plan_of(model, role, (1,), form=form))
    assert model.lerobot_config() is None
    assert model.stock_config() is None
    with pytest.raises(ModelError, match="has no words"):
        model.save_lerobot(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lerobot_has_no_words_for_weights_that_left() -> None:
    model = policy()
    assert model.lerobot_config() is not None
    model.record_hollow((f"vlm.text_model.layers.{DEPTH - 1}.post_attention_layernorm",))
    assert model.lerobot_config() is None
