# SPDX-License-Identifier: Apache-2.0
"""OpenVLA-OFT: its network against stock transformers classes, its published size, its sequence, its heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from family_cases import samples_for, tiny_io
from family_openvla_oft import IO, SUFFIX, config, full_depth_narrow, tiny
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from compress.export.draft import export_draft
from compress.models.base import ModelError, Surgery
from compress.models.openvla_oft import LANGUAGE, OpenVlaOft
from compress.models.openvla_oft_config import DiffusionShape, VitShape, openvla_7b, published_dead
from compress.models.openvla_oft_heads import add_noise, signal_share
from compress.models.openvla_oft_module import OpenVlaOftModule
from compress.models.openvla_oft_names import DINO_NAMES, SIGLIP_NAMES, Renamed, TowerNames, rename_tower
from compress.models.openvla_oft_vision import Tower, dinov2, siglip
from compress.models.surgery import operate
from compress.probing import quiet
from runtime.contract.conventions import NormMethod
from runtime.contract.graph import INPUT_NAMES

ODD_GONE, ENDPOINTS = tuple(range(0, 32, 2)), (0, 31)


def seen_by_language(model: OpenVlaOft, **changes: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What the language stack is called with, and what it gives back."""
    batch = model.collate(samples_for(model, 2))
    calls: list[tuple[dict[str, Tensor], Tensor]] = []
    keep = lambda _m, _a, kwargs, out: calls.append((kwargs, out.last_hidden_state))  # noqa: E731
    handle = model.module.get_submodule("language").register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model.module(*({**batch.inputs, **changes}[name] for name in INPUT_NAMES))
    handle.remove()
    return calls[0]


@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (0, 3)])
def test_the_language_stack_is_a_stock_llama_of_the_depth_that_is_left(kept: tuple[int, ...]) -> None:
    model = tiny(0)
    operate(model.module, LANGUAGE, Surgery.none(4), Surgery(4, kept))
    model.record_surgery({"language": Surgery(4, kept)})
    asked, hidden = seen_by_language(model)
    shape = model.config.language
    stock = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.mlp_width,
            num_hidden_layers=len(kept),
            num_attention_heads=shape.heads,
            rms_norm_eps=1e-6,
            use_cache=False,
        )
    ).eval()
    stock.model.load_state_dict(model.module.get_submodule("language").state_dict())
    with torch.no_grad():
        wanted = stock(**asked, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(hidden, wanted, rtol=0, atol=1e-6)


def test_every_place_sees_every_real_token_and_no_padding() -> None:
    """The first hidden state moves with the last token; nothing moves with what lies under the padding."""
    model = tiny(0)
    batch = model.collate(samples_for(model, 2))
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    assert not mask[0].all()
    _, before = seen_by_language(model)
    last = ids.clone()
    last[0, int(mask[0].sum()) - 1] += 1
    assert not torch.equal(before[0, 0], seen_by_language(model, input_ids=last)[1][0, 0])
    with torch.no_grad():
        answer = model.module(*batch.inputs.values())
        hidden = torch.where(mask.bool(), ids, ids + 7)
        assert torch.equal(answer, model.module(*{**batch.inputs, "input_ids": hidden}.values()))


def test_positions_count_real_tokens_only() -> None:
    model = tiny(0)
    asked, _ = seen_by_language(model)
    lengths = model.collate(samples_for(model, 2)).inputs["attention_mask"].sum(1)
    front = 1 + 2 * model.config.patches + 1
    for row, length in zip(asked["position_ids"], lengths.tolist(), strict=True):
        real = torch.cat([row[: front + length - 1], row[-(model.config.slots + 2) :]])
        assert real.tolist() == list(range(front + length + model.config.slots + 1))


@pytest.mark.parametrize("seed", [0, 1])
def test_dinov2_gives_what_stock_dinov2_has_behind_its_last_block_but_one(seed: int) -> None:
    shape = config().dinov2
    torch.manual_seed(seed)
    stock = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=shape.width,
            num_hidden_layers=shape.depth + 1,
            num_attention_heads=shape.heads,
            mlp_ratio=2,
            image_size=28,
            patch_size=14,
            num_register_tokens=shape.prefix - 1,
            layerscale_value=0.7,
        )
    ).eval()
    weights = stock.state_dict()
    table = weights["embeddings.position_embeddings"]  # timm adds the class token's own position to the token
    named = {
        "cls_token": weights["embeddings.cls_token"] + table[:, :1],
        "reg_token": weights["embeddings.register_tokens"],
        "pos_embed": table[:, 1:],
    }
    named |= {
        f"patch_embed.proj.{n}": weights[f"embeddings.patch_embeddings.projection.{n}"] for n in ("weight", "bias")
    }
    for index, layer in enumerate(stock.encoder.layer):
        writer = layer.attention
        named |= timm_block(
            f"blocks.{index}.",
            layer.norm1,
            layer.norm2,
            (writer.q_proj, writer.k_proj, writer.v_proj, writer.o_proj),
            layer.mlp,
        )
        named[f"blocks.{index}.ls1.scale_factor"] = layer.layer_scale1.lambda1
        named[f"blocks.{index}.ls2.scale_factor"] = layer.layer_scale2.lambda1
    check_tower(dinov2(config()), DINO_NAMES, shape, named, stock, prefix=shape.prefix)


def test_siglip_gives_what_stock_siglip_has_behind_its_last_block_but_one() -> None:
    shape = config().siglip
    torch.manual_seed(0)
    stock = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=shape.width,
            intermediate_size=shape.mlp_width,
            num_hidden_layers=shape.depth + 1,
            num_attention_heads=shape.heads,
            image_size=28,
            patch_size=14,
            hidden_act="gelu",
        )
    ).eval()
    weights = stock.state_dict()
    by_end = lambda end: next(value for name, value in weights.items() if name.endswith(end))  # noqa: E731
    named = {"pos_embed": by_end("position_embedding.weight")[None]}
    named |= {f"patch_embed.proj.{n}": by_end(f"patch_embedding.{n}") for n in ("weight", "bias")}
    layers = next(m for m in stock.modules() if isinstance(m, nn.ModuleList))
    for index, layer in enumerate(layers):
        writer = layer.self_attn
        linears = (writer.q_proj, writer.k_proj, writer.v_proj, writer.out_proj)
        named |= timm_block(f"blocks.{index}.", layer.layer_norm1, layer.layer_norm2, linears, layer.mlp)
    check_tower(siglip(config()), SIGLIP_NAMES, shape, named, stock, prefix=0)


def timm_block(
    place: str, norm1: nn.Module, norm2: nn.Module, linears: tuple[nn.Module, ...], mlp: nn.Module
) -> dict[str, Tensor]:
    """A transformers block under timm's names, query, key and value fused."""
    *qkv, out = linears
    children = {"norm1": norm1, "norm2": norm2, "attn.proj": out, "mlp.fc1": mlp.fc1, "mlp.fc2": mlp.fc2}
    named = {f"{place}{path}.{n}": v for path, child in children.items() for n, v in child.state_dict().items()}
    return named | {f"{place}attn.qkv.{n}": torch.cat([getattr(m, n) for m in qkv]) for n in ("weight", "bias")}


def check_tower(
    tower: Tower, names: TowerNames, shape: VitShape, timm: dict[str, Tensor], stock: nn.Module, prefix: int
) -> None:
    renamed = Renamed()
    rename_tower({names.published + name: value for name, value in timm.items()}, names, shape.depth, renamed)
    tower.load_state_dict({name.removeprefix(names.ours): value for name, value in renamed.weights.items()})
    pixels = torch.randn(3, 3, 28, 28)
    with torch.no_grad():
        wanted = stock(pixels, output_hidden_states=True).hidden_states[-2][:, prefix:]
        torch.testing.assert_close(tower(pixels), wanted, rtol=1e-5, atol=1e-5)
    assert sum(renamed.dead.values()) == sum(
        v.numel() for n, v in timm.items() if n.startswith(f"blocks.{shape.depth}.")
    )


def on_meta(kept: tuple[int, ...] = tuple(range(32))) -> OpenVlaOftModule:
    with torch.device("meta"):
        module = OpenVlaOftModule(openvla_7b())
        operate(module, LANGUAGE, Surgery.none(32), Surgery(32, kept))
        module.language.config.num_hidden_layers = len(kept)
    return module


def elements(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_full_size_has_the_published_number_of_parameters() -> None:
    module, dead = on_meta(), published_dead(openvla_7b())
    assert elements(module.language.layers[0]) == pytest.approx(202.4e6, rel=1e-4)
    own = elements(module) - elements(module.head) - elements(module.proprio_projector)
    assert own + sum(dead.values()) == 15_082_474_368 // 2  # `total_size` of openvla-7b's bfloat16 index
    assert elements(module) == pytest.approx(7.535e9, rel=1e-3)
    assert sum(dead.values()) / (elements(module) + sum(dead.values())) == pytest.approx(0.0226, abs=1e-4)


@pytest.mark.parametrize(("kept", "size", "flops"), [(ODD_GONE, 0.555, 0.550), (ENDPOINTS, 0.166, 0.156)])
def test_pruned_sizes_are_those_of_the_paper(kept: tuple[int, ...], size: float, flops: float) -> None:
    """Table 1 of arXiv 2606.27755, language half and language {0, 31}: size 55.5 and 16.6 %, FLOPs 55.0 and 15.6 %.

    The published sizes come out to the digit if the token table, the word head and what OFT adds (action head, state
    projector) are left out, and the whole towers with their dead blocks are counted in. FLOPs are counted here on the
    graph that runs, 54.6 and 14.9 %: one observation of two images and 32 prompt tokens. Upstream also multiplies the
    word head and runs the towers' unread blocks, with which the shares are 55.6 and 16.7 %; the paper lies between.
    """
    whole, pruned = on_meta(), on_meta(kept)
    dead = sum(count for name, count in published_dead(openvla_7b()).items() if name.startswith("vision_backbone."))

    def counted(module: OpenVlaOftModule) -> int:
        return dead + sum(map(elements, (module.dinov2, module.siglip, module.projector, module.language.layers)))

    assert counted(pruned) / counted(whole) == pytest.approx(size, abs=0.0005)
    assert elements(pruned) / elements(whole) == pytest.approx(size, abs=0.03)  # with table and head, all that is held
    assert multiplications(pruned) / multiplications(whole) == pytest.approx(flops, abs=0.01)


def multiplications(module: OpenVlaOftModule) -> int:
    ids = torch.ones(1, 32, dtype=torch.int64, device="meta")
    images, state = torch.zeros(1, 2, 3, 224, 224, device="meta"), torch.zeros(1, 8, device="meta")
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        assert module(images, ids, ids, state).shape == (1, 8, 7)
    return counter.get_total_flops()


def test_all_published_blocks_can_leave_but_two() -> None:
    model = full_depth_narrow()
    operate(model.module, LANGUAGE, model.surgery["language"], Surgery(32, ENDPOINTS))
    model.record_surgery({"language": Surgery(32, ENDPOINTS)})
    asked, _ = seen_by_language(model)
    assert asked["inputs_embeds"].shape[-1] == 64
    assert torch.isfinite(model.chunk(model.collate(samples_for(model, 2)))).all()
    assert model.surgery["language"].kept == ENDPOINTS


def test_the_loss_is_l1_on_bounded_targets() -> None:
    """What upstream's pipeline cuts off (and a quantile normalisation leaves) is no error."""
    model = tiny(0)
    sample = samples_for(model, 1)[0]
    beyond, further = (replace(sample, actions=sample.actions + shift) for shift in (5.0, 9.0))
    with torch.no_grad():
        first, second = (model.loss(model.collate([s])) for s in (beyond, further))
        own = nn.L1Loss()(model.predict(model.collate([sample])), torch.ones(1, 4, 7))
    assert torch.equal(first, second)
    assert float(first) == pytest.approx(float(own), rel=1e-6)


def test_a_state_beyond_its_bounds_is_cut_as_published() -> None:
    model = tiny(0)
    sample = samples_for(model, 1)[0]
    inputs = [model.collate([replace(sample, state=sample.state * 0 + value)]) for value in (1.0, 7.0)]
    assert torch.equal(model.chunk(inputs[0]), model.chunk(inputs[1]))


def test_film_shifts_every_tower_and_leaves_only_the_language_to_prune() -> None:
    model = tiny(0, film=True)
    assert [group.role for group in model.groups] == ["language"]
    batch = model.collate(samples_for(model, 3))
    with quiet(model.module, model.module.parameters()):
        model.loss(batch).sum().backward()
    silent = [n for n, p in model.module.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_no_weight_is_dead() -> None:
    model = tiny(0)
    with quiet(model.module, model.module.parameters()):
        model.loss(model.collate(samples_for(model, 4))).sum().backward()
    assert [n for n, p in model.module.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_diffusion_denoises_from_the_seed_and_learns_the_noise() -> None:
    shape = DiffusionShape(levels=20, steps=4)
    model = tiny(0, diffusion=shape)
    batch = model.collate(samples_for(model, 3))
    with torch.no_grad():
        graph = model.io.physical(model.module(*(batch.inputs[name] for name in INPUT_NAMES)))
        losses = torch.stack([model.loss(batch, seed) for seed in (0, 0, 1)])
    assert torch.equal(graph, model.chunk(batch, 0))
    assert not torch.equal(graph, model.chunk(batch, 1))
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"diffusion": DiffusionShape(levels=20, steps=3)}, {"film": True}], ids=str)
def test_both_other_forms_export(changes: dict[str, Any], tmp_path: Path) -> None:
    """The suite exports the L1 form; the looped sampler and the modulated towers are graphs of their own."""
    model = tiny(0, **changes)
    source = {"name": "openvla_oft", "revision": "test", "sha256": "0" * 64}
    lineage = {"source": source, "recipe_sha256": "1" * 64, "plan_sha256": "2" * 64}
    assert export_draft(model, samples_for(model, 8), tmp_path / "draft", lineage).golden.ok


def test_every_noise_level_is_trained_and_the_last_is_noise_alone() -> None:
    share = torch.tensor(signal_share(50))
    assert bool((share.diff() < 0).all())
    assert float(share[0]) > 0.99
    assert float(share[-1]) < 1e-3
    clean, noise = torch.ones(2, 4, 7), torch.zeros(2, 4, 7)
    added = add_noise(clean, noise, torch.tensor([0, 49]), DiffusionShape())
    torch.testing.assert_close(added[:, 0, 0], share[[0, 49]].sqrt())


def test_what_the_network_was_not_built_for_is_refused() -> None:
    ends = replace(IO.prompt, template="{instruction}")
    cases = {
        "expected BOS 1 first": (config(), replace(IO, prompt=replace(ends, add_special_tokens=False))),
        "cuts its state": (config(), tiny_io(method=NormMethod.MEAN_STD)),
        "specs of": (config(horizon=5), IO),
        "camera agentview": (config(), tiny_io(image_size=56)),
        "carries the state": (config(), replace(IO, prompt=replace(ends, template="{instruction} {state:8}"))),
    }
    for message, (shape, io) in cases.items():
        with pytest.raises(ModelError, match=message):
            OpenVlaOft(shape, io)
    last = IO.prompt.template.replace("{instruction}", "{instruction} go")
    ids = tiny(0).io.collate(samples_for(tiny(0), 1)).inputs["input_ids"]
    assert SUFFIX not in ids
    with pytest.raises(ModelError, match="the network itself puts behind"):
        OpenVlaOft(config(suffix_id=last_token(last)), replace(IO, prompt=replace(IO.prompt, template=last)))


def last_token(template: str) -> int:
    io = replace(IO, prompt=replace(IO.prompt, template=template))
    inputs = io.collate(samples_for(tiny(0), 1)).inputs
    return int(inputs["input_ids"][0, int(inputs["attention_mask"].sum()) - 1])
