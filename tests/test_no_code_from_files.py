# SPDX-License-Identifier: Apache-2.0
"""Nothing that we ship runs code out of a file: no pickle, no eval, and torch's own format in one place only.

Looked at by syntax tree, so that neither another name nor a comment hides or fakes anything. What processes of ours
send each other (multiprocessing in the gate and its simulators) comes from no file.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from code_from_files import offences
from test_architecture import REPO, SHIPPED, sources

LOADER = "compress/torch_files.py"
ALLOWED = {LOADER: ["torch.load", "torch.serialization.safe_globals"]}


def found_in(*folders: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sources(*folders):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if names := sorted({what for _, what in offences(tree)}):
            found[path.relative_to(REPO).as_posix()] = names
    return found


def test_shipped_code_runs_nothing_out_of_files() -> None:
    found = {path: names for path, names in found_in(*SHIPPED).items() if names != ALLOWED.get(path)}
    assert not found, f"use safetensors, npz or JSON; torch's files through {LOADER}: {found}"


def test_the_one_loader_builds_tensors_only() -> None:
    calls = [node for node in ast.walk(ast.parse((REPO / LOADER).read_text())) if isinstance(node, ast.Call)]
    loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
    assert len(loads) == 1
    given = {item.arg: ast.unparse(item.value) for item in loads[0].keywords}
    assert given["weights_only"] == "True"


def test_benchmarks_unpickle_nothing_either() -> None:
    assert found_in("benchmarks") == {}


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import pickle", "pickle"),
        ("import cPickle as p", "cPickle"),
        ("from pickle import loads as read", "pickle"),
        ("import dill", "dill"),
        ("import marshal", "marshal"),
        ("import shelve", "shelve"),
        ("def f():\n    from joblib import load", "joblib"),
        ("import importlib\nimportlib.import_module('pickle')", "pickle"),
        ("__import__('dill')", "dill"),
        ("eval('1')", "eval"),
        ("exec(open('f').read())", "exec"),
        ("f = eval\nf('1')", "eval"),
        ("exec(compile('1', 'f', 'exec'))", "compile"),
        ("import builtins\nbuiltins.eval('1')", "builtins.eval"),
        ("import builtins\ngetattr(builtins, 'eval')('1')", "builtins.eval"),
        ("import torch\ntorch.load('f')", "torch.load"),
        ("import torch\ntorch.load('f', weights_only=True)", "torch.load"),
        ("import torch as t\nread = t.load", "torch.load"),
        ("from torch import load as safe_load\nsafe_load('f')", "torch.load"),
        ("import torch\ntorch.jit.load('f')", "torch.jit.load"),
        ("import numpy as np\nnp.load('f', allow_pickle=True)", "allow_pickle"),
        ("import numpy as np\nnp.load('f', None, True)", "allow_pickle"),
        ("import numpy as np\nnp.load('f', allow_pickle=bool(1))", "allow_pickle"),
        ("import pandas\npandas.read_pickle('f')", "pandas.read_pickle"),
        ("import yaml\nyaml.load(s)", "yaml.load"),
        ("import yaml\nyaml.load(s, Loader=yaml.Loader)", "yaml.load"),
        ("import yaml\nyaml.load(s, yaml.FullLoader)", "yaml.load"),
        ("from yaml import load\nload(s)", "yaml.load"),
        ("import yaml\nyaml.unsafe_load(s)", "yaml.unsafe_load"),
        ("import yaml\nclass L(yaml.Loader): pass\nyaml.load(s, Loader=L)", "yaml.load"),
    ],
)
def test_planted_offender_is_found(code: str, what: str) -> None:
    assert what in {name for _, name in offences(ast.parse(code))}


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "import re\nre.compile('x')",
        "import torch\ntorch.compile(model)",
        "import json\njson.load(f)",
        "from safetensors.torch import load\nload(b)",
        "import numpy as np\nnp.load('f')\nnp.load('f', allow_pickle=False)",
        "import yaml\nyaml.safe_load(s)\nyaml.load(s, Loader=yaml.SafeLoader)",
        "import yaml\nclass L(yaml.SafeLoader): pass\nyaml.load(s, Loader=L)",
        "'eval(1); import pickle'  # pickle.loads",
    ],
)
def test_harmless_code_is_left_alone(code: str) -> None:
    assert list(offences(ast.parse(code))) == []


def test_planted_offender_in_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime/thief.py").write_text("def f(path):\n    import pickle\n    return pickle.load(open(path))\n")
    monkeypatch.setattr("test_no_code_from_files.REPO", tmp_path)
    monkeypatch.setattr("test_architecture.REPO", tmp_path)
    assert found_in("runtime") == {"runtime/thief.py": ["pickle"]}
