# SPDX-License-Identifier: Apache-2.0
"""Published OpenVLA-OFT folders: read into the policy that an independent computation describes, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import openvla_oft_oracle as oracle
import pytest
import torch
from family_cases import samples_for
from openvla_oft_folder import IO, STATISTICS, Published, adapter, diffusion, l1, shards
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compress.data.samples import Sample
from compress.models.base import ModelError, Surgery
from compress.models.openvla_oft import OpenVlaOft
from compress.models.openvla_oft_config import DiffusionShape, published_dead
from compress.models.registry import load_model

LAYERS = "language_model.model.layers."
ATTENTION = tuple(f"self_attn.{name}_proj.weight" for name in "qkvo")
MLP = tuple(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down"))


def observations(model: OpenVlaOft) -> list[Sample]:
    """Prompts of different lengths; states and actions of which some are out of bounds."""
    return [replace(s, state=2 * s.state, actions=3 * s.actions) for s in samples_for(model, 3)]


def check(model: OpenVlaOft, published: Published, **how: Any) -> None:
    """Chunk (and L1 loss) are those of the oracle, observation by observation, though the batch is padded."""
    samples = observations(model)
    answers = torch.stack([published.answer(sample, **how) for sample in samples])
    batch = model.collate(samples)
    assert len(set(batch.inputs["attention_mask"].sum(1).tolist())) > 1
    close = 2e-4 if how else 2e-5  # fifty steps of the sampler add up their rounding
    torch.testing.assert_close(model.chunk(batch), published.commands(answers), rtol=1e-4, atol=close)
    assert float(answers.std(0).max()) > 0.01  # the observations matter
    if not how:
        wanted = [nn.L1Loss()(a, published.target(s)) for a, s in zip(answers, samples, strict=True)]
        with torch.no_grad():
            torch.testing.assert_close(model.loss(batch), torch.stack(wanted), rtol=1e-4, atol=1e-5)


def test_a_published_policy_answers_as_described_and_is_converted_once(tmp_path: Path) -> None:
    published = l1()
    model = load_model("openvla_oft", published.write(tmp_path / "published"))
    assert isinstance(model, OpenVlaOft)
    check(model, published)
    model.save(tmp_path / "own")
    again = OpenVlaOft.load(tmp_path / "own")
    batch = model.collate(observations(model))
    assert torch.equal(again.chunk(batch), model.chunk(batch))
    assert again.identity() == model.identity()
    assert again.dead_weights == model.dead_weights
    assert "dataset_statistics.json" in {path.name for path in (tmp_path / "own").iterdir()}


def test_dead_weights_are_counted_and_left_out(tmp_path: Path) -> None:
    for film in (False, True):
        published = l1(film=film)
        model = OpenVlaOft.load(published.write(tmp_path / str(film)))
        assert dict(model.dead_weights) == published_dead(model.config)
        held = sum(v.numel() for w in (published.network, *published.parts.values()) for v in w.values())
        assert held == sum(model.dead_weights.values()) + sum(p.numel() for p in model.module.parameters())


def test_what_is_dead_may_hold_anything(tmp_path: Path) -> None:
    published = l1()
    model = OpenVlaOft.load(published.write(tmp_path / "a"))
    wild = {n: v * 3 + 1 if n.startswith(tuple(model.dead_weights)) else v for n, v in published.network.items()}
    changed = replace(published, network=wild)
    assert any(not torch.equal(v, published.network[n]) for n, v in wild.items())
    batch = model.collate(observations(model))
    assert torch.equal(OpenVlaOft.load(changed.write(tmp_path / "b")).chunk(batch), model.chunk(batch))


@pytest.mark.parametrize("steps", [(50, 50), (50, 10), (40, 12)])
def test_a_published_diffusion_policy_denoises_as_described(steps: tuple[int, int], tmp_path: Path) -> None:
    published = diffusion()
    model = OpenVlaOft.load(published.write(tmp_path / "published"), diffusion=DiffusionShape(*steps))
    start = model.module.get_buffer("start")
    check(model, published, start=start, steps=steps)
    model.save(tmp_path / "own")
    batch = model.collate(observations(model))
    assert torch.equal(OpenVlaOft.load(tmp_path / "own").chunk(batch), model.chunk(batch))


def test_filmed_towers_come_out_of_their_own_file(tmp_path: Path) -> None:
    """The shards of a FiLM run hold towers as well, which upstream replaces."""
    published = l1(film=True)
    folder = published.write(tmp_path / "published")
    stale = oracle.draw({n: s for n, s in oracle.shapes().items() if n.startswith("vision_")}, 77)
    language = {n: v for n, v in published.network.items() if not n.startswith("vision_")}
    shards(folder, {**language, **stale})
    check(OpenVlaOft.load(folder), published)


def test_filmed_towers_may_carry_their_adapters(tmp_path: Path) -> None:
    published = l1(film=True)
    folder = published.write(tmp_path / "published")
    blocks = "vision_backbone.featurizer.blocks."
    layers = {f"{blocks}0.block.attn.qkv": (96, 32), f"{blocks}1.block.mlp.fc2": (32, 64)}
    adapter(folder, {}, "openvla/openvla-7b")
    file = folder / "vision_backbone--50000_checkpoint.pt"
    wrapped: dict[str, Tensor] = {}
    for name, value in torch.load(file, weights_only=True).items():
        layer, _, kind = name.rpartition(".")
        if layer not in layers:
            wrapped[name] = value
            continue
        wrapped[f"{layer}.base_layer.{kind}"] = value
        if kind == "weight":
            down, up = torch.randn(2, layers[layer][1]) * 0.3, torch.randn(layers[layer][0], 2) * 0.3
            wrapped |= {f"{layer}.lora_A.default.weight": down, f"{layer}.lora_B.default.weight": up}
            wrapped[f"{layer}.base_layer.weight"] = value - 1.5 * up @ down
    torch.save(wrapped, file)
    check(OpenVlaOft.load(folder), published)
    (folder / "lora_adapter" / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match=r"adapter_config\.json is missing"):
        OpenVlaOft.load(folder)


LORA = {f"{LAYERS}1.self_attn.q_proj": (32, 32), f"{LAYERS}3.mlp.down_proj": (32, 64), "projector.fc2": (32, 320),
        "vision_backbone.fused_featurizer.blocks.2.attn.qkv": (144, 48)}  # fmt: skip


def lora_folder(tmp_path: Path, **changes: Any) -> tuple[Path, Published, dict[str, Tensor]]:
    published = l1()
    base = published.write(tmp_path / "base")
    folder = published.write(tmp_path / "run", weights=False)
    return folder, published, adapter(folder, LORA, str(base), **changes)


def test_an_adapter_alone_is_merged_over_its_base(tmp_path: Path) -> None:
    folder, published, added = lora_folder(tmp_path)
    network = {n: v + added.get(n.removesuffix(".weight"), torch.zeros(())) for n, v in published.network.items()}
    merged = replace(published, network=network)
    check(OpenVlaOft.load(folder), merged)
    moved = (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="give the folder of that base"):
        OpenVlaOft.load(folder)
    check(OpenVlaOft.load(folder, base=moved), merged)


def test_an_adapter_beside_merged_weights_is_not_merged_again(tmp_path: Path) -> None:
    published = l1()
    folder = published.write(tmp_path / "published")
    adapter(folder, LORA, "openvla/openvla-7b")
    check(OpenVlaOft.load(folder), published)


@pytest.mark.parametrize(
    "change",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 8}},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"init_lora_weights": "pissa"},
        {"peft_type": "LOHA"},
    ],
)
def test_other_adapters_are_refused_by_name(change: dict[str, Any], tmp_path: Path) -> None:
    folder, _, _ = lora_folder(tmp_path, **change)
    with pytest.raises(ModelError, match=rf"{next(iter(change))}.*is not plain LoRA"):
        OpenVlaOft.load(folder)


def test_a_torn_or_foreign_adapter_is_refused(tmp_path: Path) -> None:
    folder, _, _ = lora_folder(tmp_path)
    file = folder / "lora_adapter" / "adapter_model.safetensors"
    whole, first = load_file(file), f"base_model.model.{LAYERS}1.self_attn.q_proj.lora_A.weight"
    cases = {
        "half a LoRA pair": {n: v for n, v in whole.items() if n != first},
        "which the base does not have": {n.replace("layers.1.", "layers.9."): v for n, v in whole.items()},
        "expected rank 2": {n: (torch.cat([v, v]) if n == first else v) for n, v in whole.items()},
        "is no half of a LoRA pair": {**whole, "base_model.model.projector.fc1.bias": torch.zeros(4)},
    }
    for message, weights in cases.items():
        save_file(weights, file)
        with pytest.raises(ModelError, match=message):
            OpenVlaOft.load(folder)


def pruned(attention: tuple[int, ...], mlp: tuple[int, ...], text: dict[str, Any], norms: bool) -> Published:
    """A policy as it is published after training without some sublayers."""
    gone = {f"{LAYERS}{i}.{n}" for i in attention for n in ATTENTION} | {f"{LAYERS}{i}.{n}" for i in mlp for n in MLP}
    if not norms:
        gone |= {f"{LAYERS}{i}.input_layernorm.weight" for i in attention}
        gone |= {f"{LAYERS}{i}.post_attention_layernorm.weight" for i in mlp}
    whole = l1()
    network = {name: value for name, value in whole.network.items() if name not in gone}
    return replace(whole, network=network, text={**whole.text, **text})


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(
    ("attention", "mlp", "wanted"),
    [
        ((1, 2), (1, 2), Surgery(4, (0, 3))),
        ((2,), (), Surgery(4, (0, 1, 2, 3), without_attention=(2,))),
        ((0, 1), (1, 3), Surgery(4, (0, 2, 3), without_attention=(0,), without_mlp=(3,))),
    ],
)
def test_a_policy_published_without_blocks_comes_back_as_surgery(
    attention: tuple[int, ...], mlp: tuple[int, ...], wanted: Surgery, norms: bool, tmp_path: Path
) -> None:
    as_booleans = [index in attention for index in range(4)]
    text = {"drop_attn_list": as_booleans if norms else list(attention), "drop_mlp_list": list(mlp)}
    published = pruned(attention, mlp, text, norms)
    model = OpenVlaOft.load(published.write(tmp_path / "published"))
    assert model.surgery["language"] == wanted
    check(model, published)
    model.save(tmp_path / "own")
    assert OpenVlaOft.load(tmp_path / "own").surgery == model.surgery


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({}, r"drop_attn_list is \[\] of 4 blocks.*none of kept blocks \[1\]"),
        ({"drop_attn_list": [1, 2], "drop_mlp_list": [1]}, r"tensors of dropped blocks \[2\]"),
        ({"drop_attn_list": [1], "drop_mlp_list": [1, 7]}, "expected different indices below 4"),
        ({"drop_attn_list": [1], "drop_mlp_list": "1"}, "expected block indices"),
        ({"drop_attn_list": [1], "drop_mlp_list": [1], "num_hidden_layers": 3}, r"blocks \[3\] beyond the depth"),
    ],
)
def test_drop_lists_that_contradict_the_tensors_are_refused(text: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = pruned((1,), (1,), text, norms=False).write(tmp_path / "published")
    with pytest.raises(ModelError, match=message):
        OpenVlaOft.load(folder)


def test_statistics_come_by_key(tmp_path: Path) -> None:
    other = {**STATISTICS, "action": {**STATISTICS["action"], "q99": [0.9] * 7}}
    published = replace(l1(), statistics={"libero_goal_no_noops": STATISTICS, "aloha": other})
    folder = published.write(tmp_path / "published")
    with pytest.raises(ModelError, match="available: aloha, libero_goal_no_noops"):
        OpenVlaOft.load(folder)
    with pytest.raises(ModelError, match="no statistics of 'bridge'"):
        OpenVlaOft.load(folder, statistics_key="bridge")
    check(OpenVlaOft.load(folder, statistics_key="libero_goal_no_noops"), published)
    replace(published, conventions={"statistics_key": "aloha"}).write(folder)
    assert OpenVlaOft.load(folder).io.normalizers.action.second.tolist() == [0.9] * 7


def test_bounds_instead_of_quantiles_where_the_conventions_say_so(tmp_path: Path) -> None:
    methods = {"normalization": {"state": "min_max", "action": "min_max"}}
    model = OpenVlaOft.load(replace(l1(), conventions=methods).write(tmp_path / "published"))
    assert model.io.normalizers.action.first.tolist() == STATISTICS["action"]["min"]


def edit(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change one JSON file of a folder."""

    def apply(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        change(data)
        (folder / name).write_text(json.dumps(data))

    return apply


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "policy_io.json is missing: write": lambda f: (f / "policy_io.json").unlink(),
    "dataset_statistics.json is missing": lambda f: (f / "dataset_statistics.json").unlink(),
    "tokenizer.json cannot be read": lambda f: (f / "tokenizer.json").unlink(),
    "preprocessor_config.json is missing": lambda f: (f / "preprocessor_config.json").unlink(),
    "expected one action_head--N": lambda f: (f / "action_head--50000_checkpoint.pt").unlink(),
    "expected one proprio_projector--N": lambda f: (f / "proprio_projector--9_checkpoint.pt").write_bytes(b""),
    "noisy_action_projector is there as well": lambda f: torch.save({}, f / "noisy_action_projector--1_checkpoint.pt"),
    "neither model.safetensors": lambda f: (f / "model.safetensors.index.json").unlink(),
    "timm_model_ids is": edit("config.json", lambda d: d.update(timm_model_ids=["vit_large_patch14_clip_224.openai"])),
    "image_sizes is": edit("config.json", lambda d: d.update(image_sizes=[224, 384])),
    "no text_config": edit("config.json", lambda d: d.pop("text_config")),
    "text_config says {'hidden_act'": edit("config.json", lambda d: d["text_config"].update(hidden_act="gelu")),
    "text_config has odd sizes": edit("config.json", lambda d: d["text_config"].update(hidden_size="32")),
    "is beyond the vocabulary": edit("config.json", lambda d: d["text_config"].update(vocab_size=1000)),
    "expected (": edit("config.json", lambda d: d["text_config"].update(intermediate_size=96)),
    "SigLIP's pixels have": edit(
        "preprocessor_config.json", lambda d: d["tvf_normalize_params"][1].update(std=[0.4, 0.5, 0.5])
    ),
    "no q01_q99 statistics of 'proprio'": edit(
        "dataset_statistics.json", lambda d: d["libero_goal_no_noops"].pop("proprio")
    ),
    "does not say what the policy sees": edit("policy_io.json", lambda d: d.pop("prompt")),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_damaged_folders_are_refused(message: str, tmp_path: Path) -> None:
    folder = l1().write(tmp_path / "published")
    DAMAGES[message](folder)
    with pytest.raises(ModelError) as refused:
        OpenVlaOft.load(folder)
    assert message.replace("expected (", "the configuration expects (") in str(refused.value)


def test_missing_stray_and_gapped_tensors_are_refused(tmp_path: Path) -> None:
    whole = l1()
    blocks = "vision_backbone.featurizer.blocks."
    cases: dict[str, dict[str, Tensor]] = {
        "missing tensors": {n: v for n, v in whole.network.items() if n != "projector.fc2.bias"},
        "unknown tensors": {**whole.network, "projector.fc4.bias": torch.zeros(2)},
        "without gaps": {n: v for n, v in whole.network.items() if not n.startswith(f"{blocks}1.")},
        "no pos_embed": {n: v for n, v in whole.network.items() if n != "vision_backbone.featurizer.pos_embed"},
        "embed_tokens.weight is missing": {n: v for n, v in whole.network.items() if "embed_tokens" not in n},
    }
    for number, (message, network) in enumerate(cases.items()):
        folder = replace(whole, network=network).write(tmp_path / str(number))
        with pytest.raises(ModelError, match=message):
            OpenVlaOft.load(folder)


def test_bfloat16_weights_stay_bfloat16_and_heads_follow(tmp_path: Path) -> None:
    """Upstream runs head and projectors in the dtype of the base, whatever they were saved in."""
    published = l1()
    network = {name: value.bfloat16() for name, value in published.network.items()}
    model = OpenVlaOft.load(replace(published, network=network).write(tmp_path / "published"))
    assert {value.dtype for value in model.module.state_dict().values()} == {torch.bfloat16}
    batch = model.collate(observations(model))
    single = OpenVlaOft.load(published.write(tmp_path / "single")).chunk(batch)
    assert model.chunk(batch).dtype == torch.float32
    torch.testing.assert_close(model.chunk(batch), single, rtol=0, atol=0.15)


def test_the_conventions_are_those_of_the_robot(tmp_path: Path) -> None:
    model = OpenVlaOft.load(l1().write(tmp_path / "published"))
    assert model.specs() == IO.specs()
    assert model.config.dino_mean == (0.484375, 0.455078125, 0.40625)
