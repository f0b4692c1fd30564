# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs end to end on a tiny policy and its three methods see the same batches."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from algorithm_factory import batches, fitted

from compress.baselines import SCORERS
from compress.gateprobe import probe


def benchmark(repo: Path) -> Any:
    spec = importlib.util.spec_from_file_location("gateprobe_vs_loo", repo / "benchmarks" / "gateprobe_vs_loo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_benchmark_reports_the_scorers_own_numbers(repo: Path) -> None:
    script, (model, _) = benchmark(repo), fitted(3)
    given = batches(model, 4, 2)
    result = script.compare(model, given, ["language", "vision.siglip"], "block")
    found = result["stacks"]["language"]
    np.testing.assert_allclose(found["gateprobe"], probe(model, given).values, rtol=1e-12)
    np.testing.assert_allclose(found["leave_one_out"], SCORERS["loo"](model, given, "language", "block").values)
    assert found["same_drop_set"]["7"] >= 6 / 7
    assert json.loads(json.dumps(result, allow_nan=False))["samples"] == 4
    assert "goal language spearman >= 0.9" in script.table(result)
