# SPDX-License-Identifier: Apache-2.0
"""Memory and time before anything is loaded: counted against real policies, and against what is published."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pipeline_factory
import pytest
import torch
from algorithm_factory import batches, policy
from family_cases import NAMES, case, samples_for
from test_scale_memory import kept
from torch import nn

from compress.checkpoint_size import SizeError, Sizes, sizes
from compress.cli import main
from compress.costs import count_flops
from compress.dtr.spec import RecoverSpec
from compress.estimate import GIB, Device, activations, estimate, probing, pruned, recovering
from compress.gateprobe import gate_derivatives
from compress.models.openvla_oft_config import LlamaShape, OpenVlaOftConfig, VitShape
from compress.models.openvla_oft_module import OpenVlaOftModule
from compress.plan_spec import PlanSpec
from compress.probing import quiet
from compress.recipe import Recipe, load_recipe
from compress.verbs.dry_run import answer

KINDS = {torch.float32: "F32", torch.bfloat16: "BF16"}
LORA = RecoverSpec(method="lora", lora_rank=32, batch_size=1, ema=0.0)


def headers_only(folder: Path, module: nn.Module, kind: str) -> Path:
    """A file of the module's shapes without its numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {
        n: {"dtype": kind, "shape": list(v.shape), "data_offsets": [0, 0]} for n, v in module.state_dict().items()
    }
    text = json.dumps(entries).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    return folder


@pytest.fixture(scope="module")
def seven_billion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenVLA-OFT as it is published, without its numbers."""
    with torch.device("meta"):
        module = OpenVlaOftModule(
            OpenVlaOftConfig(
                language=LlamaShape(depth=32, width=4096, heads=32, kv_heads=32, mlp_width=11008, vocabulary=32064),
                dinov2=VitShape(depth=23, width=1024, heads=16, mlp_width=4096, prefix=5),
                siglip=VitShape(depth=26, width=1152, heads=16, mlp_width=4304),
            )
        )
    return headers_only(tmp_path_factory.mktemp("big") / "oft", module, "BF16")


@pytest.fixture(scope="module")
def big(seven_billion: Path) -> Sizes:
    return sizes(seven_billion, "openvla_oft")


@pytest.mark.parametrize("name", NAMES)
def test_headers_say_what_the_policy_weighs_and_computes(name: str, tmp_path: Path) -> None:
    model = case(name).make(0)
    model.save(tmp_path / "model")
    found = sizes(tmp_path / "model", name)
    values = [*model.module.parameters()]
    assert found.parameters == pytest.approx(sum(v.numel() for v in values), rel=0.02)
    assert found.bytes == pytest.approx(sum(v.numel() * v.element_size() for v in values), rel=0.02)
    for group in model.groups:
        kind = group.role.partition(".")[0]
        depth = len(group.stack(model.module))
        assert depth in [stack.blocks for stack in found.stacks if stack.kind == kind], group.role


def test_flops_are_those_that_torch_counts(tmp_path: Path) -> None:
    model = policy(depth=6, vision_depth=3)
    model.save(tmp_path / "model")
    total, _ = count_flops(model, batches(model, 1, 1)[0], model.groups[0])
    assert sizes(tmp_path / "model", "reference").forward_flops == pytest.approx(total, rel=0.35)


@pytest.mark.parametrize("name", ["reference", "pi0", "openvla_oft"])
def test_activations_are_those_that_autograd_keeps(name: str, tmp_path: Path) -> None:
    model = case(name).make(0)
    model.save(tmp_path / "model")
    found, batch = sizes(tmp_path / "model", name), model.collate(samples_for(model, 4))
    with kept(model.module) as training:
        model.loss(batch).sum()
    guess = 4 * sum(stack.blocks * activations(stack, True, 4) for stack in found.stacks)
    assert 0.5 < guess / sum(training.values()) < 1.6
    with quiet(model.module), kept(model.module) as frozen:
        gate_derivatives(model, [(model.groups[-1], "block")], batch)  # a tower: the graph is as deep as it gets
    assert 0.5 < probing(found, 4).activations / sum(frozen.values()) < 2.0


def test_seven_billion_parameters_cost_what_is_published(big: Sizes) -> None:
    """OpenVLA-OFT's authors: 25 GB at batch size 1 and 62 GB at 8, LoRA of rank 32 in bfloat16, two images."""
    assert big.parameters == pytest.approx(7.6e9, rel=0.03)
    assert big.bytes == pytest.approx(15.2e9, rel=0.03)
    one = recovering(big, big, LORA).total / 1e9
    eight = recovering(big, big, replace(LORA, batch_size=8)).total / 1e9
    assert one == pytest.approx(25, rel=0.3)
    assert eight == pytest.approx(62, rel=0.3)


def test_savers_save_what_they_promise(big: Sizes) -> None:
    full = replace(LORA, method="full", ema=0.99, batch_size=8)
    plain, again = recovering(big, big, full), recovering(big, big, replace(full, activation_checkpointing=True))
    assert again.activations < 0.2 * plain.activations
    assert again.weights == plain.weights
    masters = recovering(big, big, replace(full, param_dtype="bfloat16"))
    assert masters.gradients == 2 * plain.gradients
    frozen = recovering(big, big, replace(full, freeze=("vision.siglip",)))
    assert frozen.total < plain.total
    four = recovering(big, big, replace(full, parallel="fsdp"), processes=4)
    assert four.weights == pytest.approx(plain.weights / 4)
    assert four.activations == pytest.approx(plain.activations / 4)
    whole = recovering(big, big, replace(full, parallel="ddp"), processes=4)
    assert whole.weights == plain.weights
    taught = recovering(big, big, replace(full, distill=0.5))
    assert taught.teacher == big.bytes
    half = pruned(big, (PlanSpec(keep_fraction=0.5),))
    assert 0.5 < half.parameters / big.parameters < 0.65


def recipe(folder: Path, **changed: Any) -> Recipe:
    content = pipeline_factory.data(folder, **changed)
    return load_recipe(pipeline_factory.write(folder / "recipe.yaml", content))


def oft(folder: Path, checkpoint: Path, **recover: Any) -> Recipe:
    settings = {"steps": 100, "batch_size": 8, **recover}
    model = {"family": "openvla_oft", "checkpoint": str(checkpoint)}
    return recipe(folder, model=model, recover=settings, plan={"keep": 24})


@pytest.mark.parametrize(
    ("gib", "recover", "words"),
    [
        (80, {"method": "full", "ema": 0.0}, "set in `recover` activation_checkpointing: true"),
        (40, {"method": "lora"}, "set in `recover` activation_checkpointing: true: "),
        (24, {"method": "full"}, "method: lora, param_dtype: bfloat16"),
        (24, {"method": "lora", "distill": 0.5}, "heal, distill, features and compute_matched off"),
        (4, {"method": "lora"}, "even the smallest choice (LoRA on bfloat16, batch 1) needs"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_setting_that_helps(
    tmp_path: Path, seven_billion: Path, gib: float, recover: dict[str, Any], words: str
) -> None:
    found = answer(oft(tmp_path, seven_billion, **recover), Device("a GPU", gib * GIB, 1e14))
    assert found.exit_code == 2
    refused = [line for line in found.lines if line.startswith("refused")]
    assert any(words in line and f"{gib:.1f} GiB are free" in line for line in refused), refused


def test_what_fits_is_told_apart_from_what_is_close(tmp_path: Path, seven_billion: Path) -> None:
    wanted = oft(tmp_path, seven_billion, method="lora", activation_checkpointing=True)
    need = estimate(wanted, Device("a GPU", 1e15, 1e14))["recover"]["total"]
    for share, code, close in ((1.5, 0, []), (1.1, 0, ["recover"]), (1.0, 2, [])):
        data = estimate(wanted, Device("a GPU", need * share, 1e14))
        assert (2 if any("recovery" in text for text in data["refusals"]) else 0) == code
        assert [name for name in data["close"] if name == "recover"] == close


def test_time_follows_the_work(tmp_path: Path, seven_billion: Path) -> None:
    device = Device("a GPU", 1e12, 1e14)
    short = estimate(oft(tmp_path, seven_billion, steps=100), device)["hours"]
    assert estimate(oft(tmp_path, seven_billion, steps=300), device)["hours"]["recover"] == pytest.approx(
        3 * short["recover"]
    )
    slow = estimate(oft(tmp_path, seven_billion, steps=100, activation_checkpointing=True), device)["hours"]
    assert slow["recover"] == pytest.approx(4 / 3 * short["recover"])
    assert estimate(oft(tmp_path, seven_billion, steps=100), device, 4)["hours"]["probe"] == short["probe"] / 4


def test_dry_run_answers_in_json_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline_factory.checkpoint(tmp_path / "policy")
    pipeline_factory.write(tmp_path / "recipe.yaml", pipeline_factory.data(tmp_path))
    assert main(["run", str(tmp_path / "recipe.yaml"), "--dry-run", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["device"]["memory"] > 0
    assert {row["method"] for row in data["choices"]} == {"full", "lora", "frozen"}
    assert data["refusals"] == []
    assert not (tmp_path / "run").exists()
    assert main(["run", str(tmp_path / "recipe.yaml"), "--dry-run"]) == 0
    assert "GiB per process" in capsys.readouterr().out


def test_a_checkpoint_without_headers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SizeError, match="found no safetensors file"):
        sizes(tmp_path, "pi0")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(SizeError, match=r"has no readable header.*copy the checkpoint again"):
        sizes(tmp_path, "pi0")


def test_estimating_needs_no_torch() -> None:
    code = "import sys, compress.estimate, compress.verbs.dry_run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
