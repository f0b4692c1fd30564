# SPDX-License-Identifier: Apache-2.0
"""The faults of the mutation run: each is one change, parses, and leaves types, texts and errors alone."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SOURCE = '''"""Documentation with 7 and < in it."""

from __future__ import annotations


def check(value: int = 3, other: float = 0.5) -> bool:
    """No 9 here."""
    if not (value < 3 and other) or value is None:
        raise ValueError(f"found {value + 1}", 4)
    log(value)
    return max(value, -other) == 2
'''


def load():
    spec = importlib.util.spec_from_file_location("mutations", REPO / "benchmarks" / "mutations.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made():
    return list(load().mutants_of(SOURCE))


def test_every_kind_of_fault_is_made_where_it_can_be(made):
    changes = {(m.kind, m.change) for m in made}
    assert {
        ("comparison", "value < 3 -> value <= 3"), ("comparison", "value < 3 -> value >= 3"),
        ("comparison", "value is None -> value is not None"), ("and/or", "value < 3 and other -> value < 3 or other"),
        ("left out", "value < 3 and other -> value < 3"), ("left out", "value < 3 and other -> other"),
        ("negation", "not (value < 3 and other) -> value < 3 and other"), ("function", "max -> min"),
        ("sign", "-other -> other"), ("constant", "3 -> 4"), ("constant", "0.5 -> 0.55"),
        ("removed", "log(value) -> pass"),
    } <= changes  # fmt: skip
    assert sum(kind == "removed" for kind, _ in changes) == 2, "the call and the raise"


def test_texts_types_and_errors_are_left_alone(made):
    for mutant in made:
        assert "with 7 and <" in mutant.source
        assert "No 9 here" in mutant.source
        assert "f'found {value + 1}', 4" in mutant.source or "raise" not in mutant.source
        assert "value: int" in mutant.source


def test_each_fault_is_one_change_of_its_own(made):
    whole = ast.unparse(ast.parse(SOURCE))
    sources = [mutant.source for mutant in made]
    assert len(set(sources)) == len(sources)
    assert len({mutant.id for mutant in made}) == len(made)
    for mutant in made:
        ast.parse(mutant.source)
        pairs = zip(whole.splitlines(), mutant.source.splitlines(), strict=True)
        assert sum(one != other for one, other in pairs) == 1, mutant.change


def test_a_module_without_tests_is_refused_in_one_sentence():
    command = [sys.executable, str(REPO / "benchmarks" / "mutants.py"), "runtime/errors.py"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no tests or no file for ['runtime/errors.py']" in done.stderr
