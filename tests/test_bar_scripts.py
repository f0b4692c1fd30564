# SPDX-License-Identifier: Apache-2.0
"""The measurement scripts run end to end on small shapes, resume, and refuse in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parent.parent


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "benchmarks" / name), *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, env=environment())


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_oft_cuda_refuses_without_a_gpu_in_one_sentence(tmp_path: Path) -> None:
    done = script("oft_cuda.py", "--output", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "finds no CUDA device; run it on a machine with one" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_oft_cuda_runs_tiny_on_a_cpu_and_goes_on_where_it_was(tmp_path: Path) -> None:
    arguments = (
        "--tiny",
        "--device",
        "cpu",
        "--rounds",
        3,
        "--engines",
        "eager,onnxruntime_cuda",
        "--output",
        tmp_path,
    )
    first = script("oft_cuda.py", *arguments, "--depths", 2)
    assert first.returncode == 0, first.stderr
    row = json.loads((tmp_path / "2-eager.json").read_text())
    assert row["floor"]["floor_ms"] > 0.0
    assert row["floor"]["ratio"] == pytest.approx(row["times"]["p50_ms"] / row["floor"]["floor_ms"])
    assert row["weight_bytes"] <= 4 * row["parameters"]
    stamp = (tmp_path / "2-eager.json").stat().st_mtime_ns
    second = script("oft_cuda.py", *arguments, "--depths", "4,2")
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "2-eager.json").stat().st_mtime_ns == stamp
    rows = json.loads((tmp_path / "oft_cuda.json").read_text())["rows"]
    eager = [row for row in rows if row["engine"] == "eager"]
    assert [row["depth"] for row in eager] == [4, 2]
    assert eager[0]["flops"] > eager[1]["flops"]
    assert all("CUDA provider" in row["skipped"] for row in rows if row["engine"] == "onnxruntime_cuda")


@pytest.mark.slow
def test_engines_compares_in_turns_and_all_engines_agree(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = script("engines.py", "--policy", "reference", "--engines", "torch,onnxruntime", "--rounds", 2, "--json", out)
    assert done.returncode == 0, done.stderr
    data = json.loads(out.read_text())
    sizes = data["policies"]["reference"]["sizes"]
    assert list(sizes) == ["12", "2", "6"]  # sorted as text
    for size in sizes.values():
        assert set(size["engines"]) == {"torch", "onnxruntime"}
        assert size["engines"]["onnxruntime"]["error_to_torch"] < 1e-3
        assert size["engines"]["torch"]["times_torch"] == 1.0
    assert set(data["load"]) == {"before", "after"}


def test_engines_names_the_engines_there_are(tmp_path: Path) -> None:
    done = script("engines.py", "--engines", "warp")
    assert done.returncode == 2
    assert "found ['warp'], available: torch, compile, onnxruntime, openvino" in done.stderr


def test_engine_gate_names_what_it_needs(tmp_path: Path) -> None:
    same = script("engine_gate.py", tmp_path, "--output", tmp_path / "out")
    assert same.returncode == 2
    assert "both sides would be the same: give --backend or --baseline" in same.stderr
    unknown = script("engine_gate.py", tmp_path, "--backend", "warp", "--output", tmp_path / "out")
    assert unknown.returncode == 2
    assert "found 'warp', available" in unknown.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.sim
def test_filter_closed_loop_is_paired_bit_for_bit_and_goes_on_where_it_was(tmp_path: Path) -> None:
    from worker_factory import with_large_images

    artifact, folder, out = with_large_images(tmp_path, 32).root, tmp_path / "out", tmp_path / "out.json"
    arguments = (artifact, "--output", folder, "--max-steps", 12, "--json", out, "--quiet")
    first = script("filter_closed_loop.py", *arguments, "--pairs", 1)
    assert first.returncode == 0, first.stderr
    kept = (folder / "rows.jsonl").read_bytes()
    (folder / "rows.jsonl").write_bytes(kept + b'{"arm": "on", torn')
    second = script("filter_closed_loop.py", *arguments, "--pairs", 2, "--arms", "off,on,slow")
    assert second.returncode == 0, second.stderr
    assert (folder / "rows.jsonl").read_bytes().startswith(kept)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    ends = {(row["arm"], row["task"], row["state"]): row["end"] for row in rows}
    assert len(rows) == len(ends) == 6
    arms = json.loads(out.read_text())["arms"]
    assert arms["on"]["same_end"] == 2, "in lockstep a command that nothing slows arrives as it was meant"
    assert arms["on"]["scaled_share"] == arms["on"]["changed_share"] == 0.0
    assert arms["on"]["rejected"] == {}
    assert arms["on"]["admitted"] == arms["on"]["chunks"] > 0
    slow = arms["slow"]
    assert slow["same_end"] == 0, "limits that bite are seen at the arm"
    assert slow["rejected"] == {"chunk_rejected": 6}, "three in a row are a fault, in both scenes"
    assert slow["reject_share"] == 1.0
    assert slow["why_rejected"][0][0].startswith("chunk_rejected: the chunk would have to be slowed")
    assert slow["failures"][0][0].startswith("chunk_rejected: 3 chunks in a row")
    other = script("filter_closed_loop.py", *arguments, "--pairs", 2, "--seed", 1)
    assert other.returncode == 1
    assert "holds another run: seed differ" in other.stderr
