# SPDX-License-Identifier: Apache-2.0
"""pi0.5, of which no library has a class: each part against transformers' own, the whole against a joint pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from family_cases import samples_for, tiny_io
from family_pi0 import HORIZON, tiny_config
from family_pi05 import io, make, narrow
from pi_cuts import CUTS, batch_of, check_dead_weights
from pi_publisher import (
    ACTION,
    STATE,
    Affine,
    check_published,
    openpi_names,
    quantiles,
    upstream,
    write_lerobot,
    write_openpi,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DynamicCache, GemmaModel, PaliGemmaModel, PI0Config

from compress.models.base import ModelError, Surgery
from compress.models.pi0 import Pi0Vla
from compress.models.pi0_graph import read_prefix
from compress.models.pi0_policy import PiPolicy
from compress.models.pi05 import PROMPT, PROMPT_ALONE, PROMPT_PADDED, Pi05Vla
from compress.models.pi05_module import AdaExpert, AdaRmsNorm, Pi05Module
from compress.models.surgery import operate
from runtime.contract.conventions import NormMethod


def network(model: PiPolicy) -> Pi05Module:
    assert isinstance(model.module, Pi05Module)
    return model.module


def test_unmodulated_expert_is_transformers_gemma() -> None:
    """Constant scale, no shift, gate 1: Gemma's own norm and residual, on the same weights."""
    config = tiny_config().dit_config
    expert, gemma = AdaExpert(config).eval(), GemmaModel(config).eval()
    for norm, plain in zip(norms(expert), gemma_norms(gemma), strict=True):
        torch.nn.init.normal_(plain, std=0.3)
        with torch.no_grad():
            norm.dense.weight.zero_()
            norm.dense.bias.copy_(torch.cat([plain, torch.zeros_like(plain), torch.ones_like(plain)]))
    weights = {name: value for name, value in gemma.state_dict().items() if "norm" not in name}
    del weights["embed_tokens.weight"]
    missing, unexpected = expert.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(".dense." in name for name in missing)
    embeds, condition = torch.randn(2, 5, 32), torch.randn(2, 32)
    mask, positions = torch.zeros(2, 1, 5, 5), torch.arange(5)[None].expand(2, -1) + 3
    with torch.no_grad():
        ours = expert(embeds, condition, mask, positions, None)
        theirs = gemma(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def norms(expert: AdaExpert) -> list[AdaRmsNorm]:
    return [module for module in expert.modules() if isinstance(module, AdaRmsNorm)]


def gemma_norms(gemma: GemmaModel) -> list[torch.nn.Parameter]:
    return [parameter for name, parameter in gemma.named_parameters() if "norm" in name]


def test_prefix_is_transformers_paligemma() -> None:
    """Keys and values of every block, where tokens are real; prompts of different lengths."""
    model = make(0)
    batch, vlm = batch_of(model), network(model).vlm
    assert isinstance(vlm, PaliGemmaModel)
    pixels, ids, mask = (batch.inputs[name] for name in ("pixels", "input_ids", "attention_mask"))
    assert len(set(mask.sum(1).tolist())) > 1
    tokens = pixels.shape[1] * vlm.config.text_config.num_image_tokens
    images = torch.full((len(batch), tokens), vlm.config.image_token_id)
    real = torch.cat([torch.ones_like(images), mask], 1)
    with torch.no_grad():
        ours = read_prefix(vlm, pixels, ids, mask)
        theirs = vlm(
            input_ids=torch.cat([images, ids], 1), pixel_values=pixels.flatten(0, 1), attention_mask=real,
            position_ids=real.cumsum(-1) - 1, token_type_ids=torch.zeros_like(real),
            cache=DynamicCache(), use_cache=True,
        ).past_key_values  # fmt: skip
    assert torch.equal(ours.real, real)
    for index, layer in enumerate(theirs.layers):
        empty = torch.zeros(len(batch), 1, 0, 8)
        for mine, other in zip(ours.cache.update(empty, empty, index), (layer.keys, layer.values), strict=True):
            torch.testing.assert_close(mine[:, 0][real.bool()], other[:, 0][real.bool()], rtol=0, atol=1e-5)


def rotated(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary angles by complex numbers: the two halves of a head are real and imaginary parts."""
    half = x.shape[-1] // 2
    angles = positions[:, None, :, None] * 10000.0 ** (-torch.arange(half) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], -1)


def heads(x: Tensor, width: int) -> Tensor:
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def joint_velocity(model: Pi05Vla, batch_inputs: dict[str, Tensor], noisy: Tensor, time: Tensor) -> Tensor:
    """The published single pass, written anew: both streams side by side, one attention over all tokens per block."""
    net = network(model)
    pixels, ids, mask = (batch_inputs[name] for name in ("pixels", "input_ids", "attention_mask"))
    vlm, expert, size = net.paligemma, net.expert, noisy.shape[1]
    seen = [vlm.get_image_features(pixels[:, c]).pooler_output for c in range(pixels.shape[1])]
    left = torch.cat([*seen, torch.nn.functional.embedding(ids, vlm.language_model.embed_tokens.weight) * 48**0.5], 1)
    right, count = net.action_in_proj(noisy), left.shape[1]
    steer = sinusoid(time, right.shape[-1])
    steer = torch.nn.functional.silu(net.time_mlp_out(torch.nn.functional.silu(net.time_mlp_in(steer))))
    real = torch.cat([torch.ones(len(ids), count - ids.shape[1]), mask, torch.ones(len(ids), size)], 1).bool()
    stage = torch.cumsum(torch.tensor([0] * count + [1] + [0] * (size - 1)), 0)  # openpi's `make_att_2d_masks`
    allowed = (stage[None, :] <= stage[:, None])[None] & real[:, None, :] & real[:, :, None]
    positions = real.cumsum(1) - 1
    for block, ada in zip(vlm.language_model.layers, expert.layers, strict=True):
        normed_left = block.input_layernorm(left)
        normed_right, gate = modulated(ada.input_layernorm, right, steer)
        q, k, v = (
            heads(torch.cat([getattr(block.self_attn, n)(normed_left), getattr(ada.self_attn, n)(normed_right)], 1), 8)
            for n in ("q_proj", "k_proj", "v_proj")
        )
        scores = rotated(q, positions) @ rotated(k, positions).transpose(-1, -2) / math.sqrt(8)
        share = scores.masked_fill(~allowed[:, None], -1e30).softmax(-1)
        mixed = (share @ v).transpose(1, 2).flatten(2)
        left = left + block.self_attn.o_proj(mixed[:, :count])
        left = left + block.mlp(block.post_attention_layernorm(left))
        right = right + ada.self_attn.o_proj(mixed[:, count:]) * gate
        normed_right, gate = modulated(ada.post_attention_layernorm, right, steer)
        right = right + ada.mlp(normed_right) * gate
    return net.action_out_proj(modulated(expert.norm, right, steer)[0])


def modulated(norm: AdaRmsNorm, stream: Tensor, steer: Tensor) -> tuple[Tensor, Tensor]:
    scale, shift, gate = torch.chunk((steer @ norm.dense.weight.T + norm.dense.bias).unsqueeze(1), 3, dim=-1)
    return stream / torch.sqrt((stream**2).mean(-1, keepdim=True) + 1e-6) * (1 + scale) + shift, gate


def sinusoid(time: Tensor, width: int) -> Tensor:
    """openpi's embedding of times in [0, 1], periods from 0.004 to 4, in float64."""
    period = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64)
    angle = time[:, None].double() * 2 * math.pi / period
    return torch.cat([angle.sin(), angle.cos()], 1).float()


@pytest.mark.parametrize("seed", [0, 1])
def test_two_passes_with_a_cache_are_the_joint_pass(seed: int) -> None:
    model = make(seed)
    batch = batch_of(model)
    draw = torch.Generator().manual_seed(seed)
    noisy, time = torch.randn(3, HORIZON, 9, generator=draw), torch.tensor([1.0, 0.4, 0.001])
    net = network(model)
    pixels, ids, mask = (batch.inputs[name] for name in ("pixels", "input_ids", "attention_mask"))
    with torch.no_grad():
        cached = net.velocity(read_prefix(net.vlm, pixels, ids, mask), batch.inputs["state"], noisy, time)
        joint = joint_velocity(model, dict(batch.inputs), noisy, time)
    torch.testing.assert_close(cached, joint, rtol=1e-4, atol=2e-5)
    assert joint.std() > 0.05


def test_a_fresh_gate_is_shut_as_published() -> None:
    """Before training the expert's blocks write nothing: its stream is what entered."""
    net = network(Pi05Vla(tiny_config(), io()))
    embeds, hidden = torch.randn(1, 4, 32), []
    net.expert.norm.register_forward_pre_hook(lambda _module, args: hidden.append(args[0]))
    with torch.no_grad():
        net.expert(embeds, torch.randn(1, 32), torch.zeros(1, 1, 4, 4), torch.arange(4)[None], None)
    assert torch.equal(hidden[0], embeds)


def test_prompts_of_the_publishers() -> None:
    """The state as openpi's tokenizer writes it: bins of -1..1, -1 below; LeRobot 0.4 filled up to 32 first."""
    state = np.array([-1.2, -1.0, -0.5, 0.0, 0.999, 1.7], np.float32)
    bins = np.digitize(state, bins=np.linspace(-1, 1, 256 + 1)[:-1]) - 1
    padded = np.digitize(np.pad(state, (0, 26)), bins=np.linspace(-1, 1, 256 + 1)[:-1]) - 1
    task = "put the bowl away"

    def written(template: str) -> str:
        return tiny_io(template=template).prompt.render(task, state)

    assert written(PROMPT) == f"Task: {task}, State: {' '.join(map(str, bins))};\nAction: "
    assert written(PROMPT_PADDED) == f"Task: {task}, State: {' '.join(map(str, padded))};\nAction: "
    assert written(PROMPT_ALONE) == f"{task}\n"
    assert written(PROMPT).startswith("Task: put the bowl away, State: -1 0 64 128 255 255;")


def test_without_the_state_in_its_prompt_the_policy_is_blind_to_it() -> None:
    """openpi's `pi05_libero`: the state has no other way in."""
    blind = Pi05Vla(tiny_config(), tiny_io(horizon=HORIZON, template=PROMPT_ALONE), 0)
    (sample,) = samples_for(blind, 1)
    variants = (sample, replace(sample, state=sample.state + 1))
    moved = [blind.chunk(blind.collate([variant])) for variant in variants]
    assert torch.equal(*moved)


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.__name__)
def test_dead_weights_are_those_without_gradient(cut: Callable[[PiPolicy], None]) -> None:
    model = make(0)
    cut(model)
    check_dead_weights(model)


def test_pairs_leave_a_network_of_full_depth(tmp_path: Path) -> None:
    model = narrow(0)
    batch = batch_of(model)
    model.compact_pairs(range(1, 18, 2))
    model.save(tmp_path / "cut")
    again = Pi05Vla.load(tmp_path / "cut")
    assert torch.equal(again.chunk(batch), model.chunk(batch))
    assert [len(group.stack(again.module)) for group in again.groups] == [9, 9, 27]
    assert model.stock_config() is None


def quantile_range(statistics: dict[str, list[float]], added: float) -> Affine:
    """2 (x - q01) / (q99 - q01 + added) - 1."""
    low, high = np.array(statistics["q01"]), np.array(statistics["q99"]) + added
    return (low + high) / 2, (high - low) / 2


def test_openpi_folder(tmp_path: Path) -> None:
    model, statistics = make(0), quantiles(1)
    write_openpi(model, tmp_path, openpi_names(statistics))
    check_published(model, Pi05Vla.load(tmp_path), *(quantile_range(statistics[n], 1e-6) for n in (STATE, ACTION)))


def test_lerobot_folder(tmp_path: Path) -> None:
    model, statistics = make(0), quantiles(2)
    write_lerobot(model, tmp_path, "QUANTILES", statistics)
    found = Pi05Vla.load(tmp_path)
    check_published(model, found, *(quantile_range(statistics[n], 0.0) for n in (STATE, ACTION)))
    assert found.io.normalizers.state.method is NormMethod.Q01_Q99
    assert found.config.num_inference_steps == 3


def test_pi0_and_pi05_are_never_confused(tmp_path: Path) -> None:
    write_lerobot(make(0), tmp_path / "lerobot", "QUANTILES", quantiles(1))
    with pytest.raises(ModelError, match="found a 'pi05' checkpoint, expected 'pi0'"):
        Pi0Vla.load(tmp_path / "lerobot")
    write_openpi(make(0), tmp_path / "openpi", openpi_names(quantiles(1)))
    with pytest.raises(ModelError, match=r"expected a pi0 checkpoint, found pi05; set model\.family to pi05"):
        Pi0Vla.load(tmp_path / "openpi")


def test_an_expert_with_plain_norms_is_refused(tmp_path: Path) -> None:
    """LeRobot skips them with a warning, and the modulation stays random."""
    write_openpi(make(0), tmp_path, openpi_names(quantiles(1)))
    weights = load_file(tmp_path / "model.safetensors")
    prefix = "paligemma_with_expert.gemma_expert.model.layers.1.input_layernorm"
    del weights[f"{prefix}.dense.weight"], weights[f"{prefix}.dense.bias"]
    save_file({**weights, f"{prefix}.weight": torch.zeros(32)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"missing tensors.*input_layernorm\.dense.*unknown tensors.*input_layernorm"):
        Pi05Vla.load(tmp_path)


def test_bfloat16_as_openpi_publishes_it(tmp_path: Path) -> None:
    model = make(0)
    write_openpi(model, tmp_path, openpi_names(quantiles(1)))
    wide = ("patch_embedding", "position_embedding", "layernorm", "model.norm", "action_", "time_")
    low = {k: v if any(w in k for w in wide) else v.bfloat16() for k, v in upstream(model).items()}
    save_file(low, tmp_path / "model.safetensors")
    found, batch = Pi05Vla.load(tmp_path), batch_of(model)
    torch.testing.assert_close(found.loss(batch, 2), model.loss(batch, 2), rtol=0.02, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        low_loss = model.loss(batch, 2)
    torch.testing.assert_close(low_loss.float(), model.loss(batch, 2), rtol=0.02, atol=0.02)


def meta(language: tuple[int, ...] = ()) -> Pi05Vla:
    """The published sizes, without memory; `language` blocks are stubs."""
    with torch.device("meta"):
        made = Pi05Vla(PI0Config(), tiny_io(image_size=224, horizon=50, template=PROMPT, max_tokens=200))
    group = made.groups[0]
    operate(made.module, group, Surgery.none(18), Surgery(18, tuple(range(18)), language, language))
    return made


def elements(model: Pi05Vla, prefix: str = "") -> int:
    return sum(value.numel() for name, value in model.module.state_dict().items() if name.startswith(prefix))


def test_published_sizes() -> None:
    """Million parameters of the parts, as the publishers' own shapes give them."""
    model = meta()
    parts = {
        "paligemma.language_model.layers.0.": 110.1,
        "paligemma.language_model.layers.0.mlp.": 100.7,
        "paligemma.language_model.embed_tokens.": 526.6,
        "paligemma.vision_tower.encoder.layers.0.": 15.2,
        "expert.layers.0.": 23.6,
        "": 3353.4,
    }
    found = {prefix: elements(model, prefix) / 1e6 for prefix in parts}
    assert found == pytest.approx(parts, abs=0.06)
    assert sum(model.dead_weights.values()) / 1e6 == pytest.approx(109.1, abs=0.05)


@pytest.mark.parametrize(("kept", "published"), [(9, 60.6), (2, 30.0)])
def test_language_cuts_have_the_published_size(kept: int, published: float) -> None:
    """Within one point of the size column of arXiv 2606.27755, table 1.

    A stub takes Q, O and the MLP, 109.05 M of a block. The published column falls by 4.376 points per language block,
    so its 100 % is 2.49 G parameters: the Gemma-2B language model with its (tied) token table, 2.51 G, fits to half a
    point. It is not the network: of all 3.35 G live and dead parameters here 70.7 % and 48.0 % would be left, of
    LeRobot's 4.14 G with its untied heads 76.3 % and 57.9 %. (The paper's rows for the tower and the expert divide by
    the same 2.49 G, but by their own counts of a block; no published text says how the column was made.)
    """
    dropped = tuple(range(18))[kept:]
    language = "paligemma.language_model."
    whole, cut = meta(), meta(dropped)
    share = 100 * elements(cut, language) / elements(whole, language)
    assert share == pytest.approx(published, abs=1.0)
    of_everything = 100 * elements(cut) / elements(whole)
    assert of_everything == pytest.approx({9: 70.7, 2: 48.0}[kept], abs=0.1)
    untied = 257152 * (2048 + 1024)  # LeRobot's two heads, which carry no action
    of_lerobot = 100 * (elements(cut) + untied) / (elements(whole) + untied)
    assert of_lerobot == pytest.approx({9: 76.3, 2: 57.9}[kept], abs=0.1)
