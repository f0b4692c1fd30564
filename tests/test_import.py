# SPDX-License-Identifier: Apache-2.0
"""Published pruned checkpoints that do not say what left: with the right list they are the drop, else refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import family_pi0
import family_pi05
import pytest
import torch
from openvla_oft_folder import l1
from pi_cuts import batch_of
from pi_publisher import mean_std, openpi_names, quantiles, write_lerobot, write_openpi
from safetensors.torch import load_file, save_file
from torch import Tensor

from compress import cli
from compress.dtr.drop import drop
from compress.models.base import ModelError, Surgery
from compress.models.pi0_policy import PiPolicy
from compress.models.pruned import Cut, import_pruned
from compress.models.registry import BUILTIN, load_model
from compress.plan import PlanSpec, make_plan
from compress.probing import subject_of

Weights = dict[str, Tensor]
PI05 = "paligemma_with_expert.paligemma.model.language_model.layers."
EXPERT = "paligemma_with_expert.gemma_expert.model.layers."
TOWER = "paligemma_with_expert.paligemma.model.vision_tower.vision_model.encoder.layers."
QUERIES, MLP = ("self_attn.q_proj.", "self_attn.o_proj."), ("mlp.",)
VISION = ("self_attn.", "mlp.", "layer_norm")


def published(folder: Path, family: str = "pi05") -> Path:
    """An unpruned folder as openpi publishes it: 4 language and expert blocks, 3 vision blocks."""
    made: PiPolicy = family_pi05.make(0) if family == "pi05" else family_pi0.make(0)
    write_openpi(made, folder, openpi_names(quantiles(1) if family == "pi05" else mean_std(1)))
    return folder


def change(folder: Path, edit: Callable[[Weights], object]) -> Path:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")
    return folder


def without(stack: str, parts: Mapping[int, tuple[str, ...]]) -> Callable[[Weights], object]:
    """Take tensors out: block -> starts of their names."""
    starts = tuple(f"{stack}{block}.{part}" for block, names in parts.items() for part in names)

    def edit(weights: Weights) -> None:
        gone = [name for name in weights if name.startswith(starts)]
        assert len(gone) >= len(starts)
        for name in gone:
            del weights[name]

    return edit


def dropped(folder: Path, family: str, *specs: PlanSpec) -> Any:
    """The whole policy, cut by the same lists."""
    model = load_model(family, folder)
    drop(model, [make_plan(subject_of(model, spec.role, spec.part), spec) for spec in specs])
    return model


CUTS = {
    "blocks": (Cut(keep=(0, 3)), [PlanSpec(keep_blocks=(0, 3))], PI05, {1: QUERIES + MLP, 2: QUERIES + MLP}),
    "attention and mlp apart": (
        Cut(drop_attention=(1, 2), drop_mlp=(2, 3)),
        [PlanSpec(part="attention", keep_blocks=(0, 3)), PlanSpec(part="mlp", keep_blocks=(0, 1))],
        PI05,
        {1: QUERIES, 2: QUERIES + MLP, 3: MLP},
    ),
    "first block": (Cut(keep=(1, 2, 3), depth=4), [PlanSpec(keep_blocks=(1, 2, 3))], PI05, {0: QUERIES + MLP}),
    "action": (
        Cut("action", keep=(0, 2)),
        [PlanSpec("action", keep_blocks=(0, 2))],
        EXPERT,
        {1: ("self_attn.", "mlp."), 3: ("self_attn.", "mlp.")},
    ),
    "vision, a gap": (
        Cut("vision.siglip", keep=(0, 2)),
        [PlanSpec("vision.siglip", keep_blocks=(0, 2))],
        TOWER,
        {1: VISION},
    ),
    "vision, its end": (
        Cut("vision.siglip", drop_attention=(2,), drop_mlp=(2,)),
        [PlanSpec("vision.siglip", keep_blocks=(0, 1))],
        TOWER,
        {2: VISION},
    ),
    "vision, one mlp": (
        Cut("vision.siglip", drop_mlp=(1,)),
        [PlanSpec("vision.siglip", "mlp", keep_blocks=(0, 2))],
        TOWER,
        {1: MLP},
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", ["pi0", "pi05"])
@pytest.mark.parametrize("name", CUTS)
def test_an_imported_checkpoint_is_the_drop_with_the_same_plan(name: str, family: str, tmp_path: Path) -> None:
    cut, specs, stack, parts = CUTS[name]
    folder = published(tmp_path / "published", family)
    wanted = dropped(folder, family, *specs)
    present = import_pruned(family, folder, cut)
    assert (present.held, present.surgery) == ("present", wanted.surgery[cut.role])
    assert present.model.identity() == wanted.identity()
    absent = import_pruned(family, change(folder, without(stack, parts)), cut)
    assert absent.held == "absent"
    assert absent.model.identity() == wanted.identity()
    absent.model.save(tmp_path / "own")
    assert load_model(family, tmp_path / "own").identity() == wanted.identity()
    batch = batch_of(wanted)
    assert torch.equal(absent.model.chunk(batch), wanted.chunk(batch))


def test_norms_that_nobody_reads_may_be_absent(tmp_path: Path) -> None:
    folder = published(tmp_path / "published")
    wanted = dropped(folder, "pi05", PlanSpec(keep_blocks=(0, 3)))
    norm = ("post_attention_layernorm.",)
    change(folder, without(PI05, {1: QUERIES + MLP + norm, 2: QUERIES + MLP + norm}))
    found = import_pruned("pi05", folder, Cut(keep=(0, 3))).model
    batch = batch_of(wanted)
    assert torch.equal(found.chunk(batch), wanted.chunk(batch))
    assert torch.equal(found.loss(batch, 1), wanted.loss(batch, 1))
    change(folder, without(PI05, {1: ("input_layernorm.",)}))  # keys and values still read this one
    with pytest.raises(
        ModelError, match=r"missing tensors \['paligemma.language_model.layers.1.input_layernorm.weight"
    ):
        import_pruned("pi05", folder, Cut(keep=(0, 3)))


def test_lerobots_names_and_statistics_are_read_too(tmp_path: Path) -> None:
    model = family_pi05.make(0)
    write_lerobot(model, tmp_path, "QUANTILES", quantiles(2))
    wanted = dropped(tmp_path, "pi05", PlanSpec(keep_blocks=(0, 3)))
    change(tmp_path, without(f"model.{PI05}", {1: QUERIES + MLP, 2: QUERIES + MLP}))
    assert import_pruned("pi05", tmp_path, Cut(keep=(0, 3))).model.identity() == wanted.identity()


def renumber(weights: Weights) -> None:
    """Vision blocks 0 and 2 become 0 and 1."""
    for name in [name for name in weights if name.startswith(f"{TOWER}1.")]:
        weights[name] = weights.pop(name.replace(f"{TOWER}1.", f"{TOWER}2."))


def test_new_numbers_need_the_full_list_and_the_depth(tmp_path: Path) -> None:
    folder = published(tmp_path / "published")
    wanted = dropped(folder, "pi05", PlanSpec("vision.siglip", keep_blocks=(0, 2)))
    change(folder, renumber)
    found = import_pruned("pi05", folder, Cut("vision.siglip", keep=(0, 2), depth=3))
    assert (found.held, found.model.identity()) == ("renumbered", wanted.identity())
    with pytest.raises(ModelError, match=r"holds blocks 0 to 1, the list keeps block 2: .* say how many .*--depth"):
        import_pruned("pi05", folder, Cut("vision.siglip", keep=(0, 2)))
    with pytest.raises(ModelError, match=r"keeps 3 blocks of vision.siglip, the tensors are of 2"):
        import_pruned("pi05", folder, Cut("vision.siglip", keep=(0, 2, 3), depth=4))
    with pytest.raises(ModelError, match=r"vision.siglip block 2 keeps its attention by the list, but .*layers.2\."):
        import_pruned("pi05", folder, Cut("vision.siglip", drop_attention=(1,), drop_mlp=(1,), depth=3))


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (Cut(keep=(0, 2)), r"block 2 keeps its attention by the list, but \S*layers\.2\.self_attn\.q_proj\.weight is"),
        (Cut(keep=(0, 1)), r"block 1 keeps its attention by the list, but \S*layers\.1\.self_attn\.q_proj\.weight is"),
        (Cut(keep=(0, 2, 3)), r"block 2 keeps its attention"),
        (Cut(keep=(0,)), r"removes \S*layers\.3\.self_attn\.q_proj\.weight, but it is there, .*layers\.1\.self_attn"),
        (Cut(drop_attention=(1, 2)), r"block 1 keeps its mlp by the list, but \S*layers\.1\.mlp\.gate_proj\.weight is"),
        (Cut(drop_mlp=(1, 2)), r"block 1 keeps its attention by the list"),
        (Cut(drop_attention=(2, 3), drop_mlp=(2, 3)), r"block 1 keeps its attention by the list"),
        (Cut(drop_attention=(2, 4), drop_mlp=(2, 4)), r"the list names blocks \[4\], the tensors end at 3"),
        (Cut(keep=(0, 3), depth=5), r"they differ"),
        (Cut("action", keep=(0, 3)), r"missing tensors \['paligemma.language_model.layers.1.mlp"),
        (Cut("vision.siglip", keep=(0, 7)), r"the list keeps 2 blocks of vision.siglip, the tensors are of 3"),
        (Cut("memory", keep=(0,)), r"pi05 has no stack 'memory'; it has: language, action, vision.siglip"),
    ],
)  # fmt: skip
def test_a_list_that_the_tensors_contradict_is_refused(cut: Cut, message: str, tmp_path: Path) -> None:
    folder = change(published(tmp_path), without(PI05, {1: QUERIES + MLP, 2: QUERIES + MLP}))
    with pytest.raises(ModelError, match=message):
        import_pruned("pi05", folder, cut)


def test_without_a_list_it_is_said_what_tensors_tell_and_what_not(tmp_path: Path) -> None:
    folder = change(published(tmp_path), without(PI05, {1: QUERIES + MLP, 2: MLP}))
    with pytest.raises(ModelError) as caught:
        import_pruned("pi05", folder, None)
    said = str(caught.value)
    assert "language: attention tensors are absent in blocks [1], MLP tensors in blocks [1, 2]; blocks [0, 3]" in said
    assert "action: attention tensors are absent in blocks [], MLP tensors in blocks []; blocks [0, 1, 2, 3]" in said
    assert "--drop-attention and --drop-mlp, or --keep, or --preset" in said


DAMAGES: dict[str, Callable[[Weights], object]] = {
    "no known layout": lambda w: w.update({"lora.A.weight": torch.zeros(2)}),
    "unknown tensors": lambda w: w.update({f"{PI05}1.mlp.extra.weight": torch.zeros(2)}),
    "unknown tensors .*layers.9.": lambda w: w.update({f"{TOWER}0.lora_A.layers.9.weight": torch.zeros(2)}),
    "block 1 has no mlp by the list, but .*up_proj.weight is there and .*gate_proj.weight is not": lambda w: w.update(
        {f"{PI05}1.mlp.up_proj.weight": torch.zeros(96, 48)}
    ),
    "missing tensors .*layers.1.self_attn.k_proj": lambda w: w.pop(f"{PI05}1.self_attn.k_proj.weight"),
    "layers.3.mlp.down_proj.weight is .*expects": lambda w: w.update(
        {f"{PI05}3.mlp.down_proj.weight": torch.zeros(48, 90)}
    ),
    "NaN": lambda w: w[f"{PI05}3.mlp.down_proj.weight"].fill_(float("nan")),
}  # fmt: skip


@pytest.mark.parametrize("message", DAMAGES)
def test_tensors_that_the_network_does_not_have_are_refused(message: str, tmp_path: Path) -> None:
    folder = change(published(tmp_path), without(PI05, {1: QUERIES + MLP, 2: QUERIES + MLP}))
    change(folder, DAMAGES[message])
    with pytest.raises(ModelError, match=message):
        import_pruned("pi05", folder, Cut(keep=(0, 3)))


def test_leftovers_have_the_shape_of_the_network(tmp_path: Path) -> None:
    folder = change(published(tmp_path), lambda w: w.update({f"{PI05}1.mlp.up_proj.weight": torch.zeros(95, 48)}))
    with pytest.raises(ModelError, match=r"layers.1.mlp.up_proj.weight is \(95, 48\), the network expects \(96, 48\)"):
        import_pruned("pi05", folder, Cut(keep=(0, 3)))


def test_slots_that_other_stacks_read_cannot_be_missing(tmp_path: Path) -> None:
    folder = published(tmp_path)
    change(folder, without(PI05, {2: ("",), 3: ("",)}))
    change(folder, without(EXPERT, {2: ("",), 3: ("",)}))
    with pytest.raises(ModelError, match="they differ"):
        import_pruned("pi05", folder, Cut(keep=(0, 3), depth=4))
    with pytest.raises(ModelError, match=r"names blocks \[3\], the tensors end at 1"):
        import_pruned("pi05", folder, Cut(keep=(0, 3)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either the blocks that stayed"),
        ({"keep": (0,), "drop_mlp": (1,)}, "either the blocks that stayed"),
        ({"keep": ()}, "expected at least one"),
        ({"keep": (0, 0)}, "expected different indices"),
        ({"drop_mlp": (-1,)}, "expected different indices"),
        ({"keep": (0, 4), "depth": 4}, "all below the depth"),
    ],
)
def test_a_list_that_says_nothing_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Cut(**fields)


def test_a_stack_without_blocks_is_no_stack(tmp_path: Path) -> None:
    every = (0, 1, 2)
    with pytest.raises(ModelError, match="leaves none of 3 blocks"):
        import_pruned("pi05", published(tmp_path), Cut("vision.siglip", drop_attention=every, drop_mlp=every))


def test_a_family_without_the_hook_reads_what_its_loader_reads() -> None:
    whole = load_model("reference", BUILTIN["reference"])
    kept = (0, 1, 2, 3, 4, 5)
    drop(whole, make_plan(subject_of(whole, "language", "block"), PlanSpec(keep_blocks=kept)))
    found = import_pruned("reference", "builtin", Cut(keep=kept))
    assert (found.held, found.model.identity()) == ("present", whole.identity())
    with pytest.raises(ModelError, match="language has blocks 0 to 11, the list says block 12"):
        import_pruned("reference", "builtin", Cut(keep=(0, 12)))
    with pytest.raises(ModelError, match=r"every tensor of language, .* is there. Give the publisher's list"):
        import_pruned("reference", "builtin", None)


def test_a_configuration_that_lists_what_left_is_believed_and_compared(tmp_path: Path) -> None:
    start = "language_model.model.layers.1."
    whole = l1()
    network = {n: v for n, v in whole.network.items() if not n.startswith((f"{start}self_attn.", f"{start}mlp."))}
    text = {**whole.text, "drop_attn_list": [1], "drop_mlp_list": [1]}
    folder = replace(whole, network=network, text=text).write(tmp_path / "published")
    for cut in (None, Cut(keep=(0, 2, 3))):
        found = import_pruned("openvla_oft", folder, cut)
        assert (found.held, found.role, found.surgery) == ("listed", "language", Surgery(4, (0, 2, 3)))
    with pytest.raises(ModelError, match=r"its configuration says language is .*, the list says"):
        import_pruned("openvla_oft", folder, Cut(keep=(0, 1, 3)))


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = cli.main(["import", *arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_the_verb_writes_a_checkpoint_and_says_what_confirms_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = str(published(tmp_path / "published")), str(tmp_path / "own")
    lists = ("--drop-attention", "1,2", "--drop-mlp", "2")
    code, said = command(capsys, folder, "--family", "pi05", *lists, "--output", out, "--json")
    data = json.loads(said)
    assert (code, data["held"], data["without_attention"], data["without_mlp"]) == (0, "present", [1, 2], [2])
    assert load_model("pi05", out).identity() == data["identity"]
    code, said = command(capsys, folder, "--family", "pi05", "--keep", "0,3", "--output", str(tmp_path / "b"))
    assert code == 0
    assert "nothing in the file confirms the list" in said
    code, said = command(capsys, out, "--family", "pi05", "--keep", "0,3", "--output", str(tmp_path / "c"))
    assert (code, "says itself what was removed" in said) == (2, True)
    assert not (tmp_path / "c").exists()


def test_a_published_list_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "published"
    write_openpi(family_pi05.narrow(0), folder, openpi_names(quantiles(1)))
    name = "dtr-pi05-libero-gateprobe-drop16"
    code, said = command(
        capsys, str(folder), "--family", "pi05", "--preset", name, "--output", str(tmp_path / "own"), "--json"
    )
    assert code == 0
    assert json.loads(said)["without_mlp"] == [b for b in range(18) if b not in (0, 5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--keep", "0-3"), "--keep is '0-3', expected block numbers such as 0,2,4"),
        (("--keep", "0", "--drop-mlp", "1"), "found several"),
        (("--keep", "0", "--preset", "x"), "found several"),
        (("--preset", "dtr-pi05"), "expected one of: dtr-pi05-libero-gateprobe-drop9"),
        (
            ("--preset", "dtr-openvla-oft-libero-endpoints-drop30"),
            "is of 32 blocks of openvla_oft language, the options",
        ),
        (("--preset", "dtr-pi05-libero-fisher-drop9", "--depth", "4"), "the options say 4 of pi05 language"),
        ((), "which blocks were removed is not written"),
    ],
)
def test_options_that_say_nothing_or_too_much(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(published(tmp_path / "published"))
    code, said = command(capsys, folder, "--family", "pi05", *options, "--output", str(tmp_path / "own"))
    assert code == 2
    assert message in said
    assert not (tmp_path / "own").exists()
