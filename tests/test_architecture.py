# SPDX-License-Identifier: Apache-2.0
"""The rules about ourselves: who imports whom (`.importlinter`), how long a file may be, what is never written."""

from __future__ import annotations

import ast
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGES = ("compress", "runtime")
SHIPPED = (*PACKAGES, "ros2_ws", "launch")
MAX_FILE, MAX_FUNCTION = 300, 60
LONG_FILES: dict[str, str] = {}  # path -> why it may be longer; the list only shrinks
LONG_FUNCTIONS: dict[str, str] = {}  # path:function -> why
HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "libero", "robosuite", "mujoco", "rclpy")
LIGHT = ("cli", "recipe", "run_dir", "plan", "pipeline", "doctor")  # imported before any work starts
LIST_EDITS = ("append", "extend", "insert", "remove", "pop", "clear", "reverse", "sort")


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        built = {"build", "install", "log"}
        found = (REPO / folder).rglob("*.py")
        yield from sorted(path for path in found if not built & set(path.relative_to(REPO / folder).parts))


@functools.cache
def parsed(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def nodes(*folders: str) -> Iterator[tuple[str, ast.AST]]:
    """Every syntax node of the folders' files, with `path:line` for messages."""
    for path in sources(*folders):
        name = path.relative_to(REPO).as_posix()
        for node in parsed(path):
            yield f"{name}:{getattr(node, 'lineno', 0)}", node


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-logo', '--no-cache'])"
    return subprocess.run([sys.executable, "-c", command], cwd=folder, capture_output=True, text=True, check=False)


def test_import_rules_are_kept() -> None:
    result = lint_imports(REPO)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def copy_of_tree(tmp_path: Path) -> Path:
    for path in sources(*PACKAGES):
        target = tmp_path / path.relative_to(REPO)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(REPO / ".importlinter", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("runtime/clock.py", "import torch", "runtime imports no training stack"),
        ("runtime/contract/spec.py", "import compress", "compress may know runtime"),
        ("runtime/errors.py", "import runtime.contract.spec", "runtime: from the tick down"),
        ("runtime/contract/manifest.py", "import onnxruntime", "each library has one wrapper file"),
        ("runtime/contract/signed.py", "import cryptography", "each library has one wrapper file"),
        ("compress/signing/key_files.py", "import cryptography", "keys and signatures go through"),
        ("compress/models/base.py", "import compress.dtr", "compress: from the command line down"),
        ("compress/recipe.py", "import runtime.backends", "only export and gate exercise more of runtime"),
        ("compress/recipe.py", "import transformers", "transformers stays in the model adapters"),
        ("compress/recipe.py", "def f():\n    import mujoco", "stay below compress.sim"),
    ],
)
def test_planted_import_is_caught(copy_of_tree: Path, file: str, line: str, rule: str) -> None:
    target = copy_of_tree / file
    target.write_text(target.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    result = lint_imports(copy_of_tree)
    broken = [text for text in result.stdout.splitlines() if "BROKEN" in text]
    assert result.returncode != 0
    assert any(rule in text for text in broken), result.stdout + result.stderr


def test_every_source_folder_is_a_package() -> None:
    folders = {path.parent for path in sources(*PACKAGES)}
    bare = sorted(str(folder.relative_to(REPO)) for folder in folders if not (folder / "__init__.py").exists())
    assert not bare, f"without __init__.py the wheel and the import rules do not see: {bare}"


def test_files_stay_short() -> None:
    long = {}
    for path in sources(*PACKAGES):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE and path.relative_to(REPO).as_posix() not in LONG_FILES:
            long[path.relative_to(REPO).as_posix()] = lines
    assert not long, f"over {MAX_FILE} lines; split by the question each part answers: {long}"


def test_functions_stay_short() -> None:
    long = {}
    for where, node in nodes(*PACKAGES):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION and f"{where.split(':')[0]}:{node.name}" not in LONG_FUNCTIONS:
                long[f"{where} {node.name}"] = lines
    assert not long, f"over {MAX_FUNCTION} lines: {long}"


def test_exceptions_still_exist() -> None:
    for entry, reason in {**LONG_FILES, **LONG_FUNCTIONS}.items():
        assert (REPO / entry.split(":")[0]).exists(), f"{entry} is gone; remove its exception"
        assert reason


def edits_sys_path(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in LIST_EDITS and ast.unparse(node.func.value) == "sys.path"
    if not isinstance(node, ast.Assign | ast.AugAssign | ast.Delete):
        return False
    targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
    return any(ast.unparse(target).startswith("sys.path") for target in targets)


def test_sys_path_is_never_edited() -> None:
    found = [where for where, node in nodes(*SHIPPED, "tests") if edits_sys_path(node)]
    assert not found, f"install the package instead (make install): {found}"


@pytest.mark.parametrize("line", ["sys.path.insert(0, 'x')", "sys.path += ['x']", "sys.path[:0] = ['x']"])
def test_edit_of_sys_path_is_seen(line: str) -> None:
    assert any(edits_sys_path(node) for node in ast.walk(ast.parse(line)))
    assert not any(edits_sys_path(node) for node in ast.walk(ast.parse("print(':'.join(sys.path))")))


def test_every_file_names_its_licence_and_purpose() -> None:
    for path in sources(*SHIPPED):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
        module = parsed(path)[0]
        assert isinstance(module, ast.Module)
        assert ast.get_docstring(module), f"{path} says nothing of its purpose"


def loaded_after(code: str) -> list[str]:
    """Which heavy libraries a fresh interpreter holds after `code`."""
    report = f"import json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return list(json.loads(result.stdout.splitlines()[-1]))


def help_of(package: str) -> str:
    """Code that runs `python -m <package> --help` in this process and survives its exit."""
    return (
        "import runpy, sys\n"
        f"sys.argv = ['{package}', '--help']\n"
        f"try: runpy.run_module('{package}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: assert end.code in (0, None), end.code"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_import_stays_light(package: str) -> None:
    assert loaded_after(f"import {package}") == []


@pytest.mark.parametrize("module", LIGHT)
def test_front_door_stays_light(module: str) -> None:
    assert loaded_after(f"import compress.{module}") == []


@pytest.mark.parametrize("package", PACKAGES)
def test_help_stays_light(package: str) -> None:
    assert loaded_after(help_of(package)) == []


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")


def test_runtime_imports_with_numpy_alone() -> None:
    modules = [module_name(path) for path in sources("runtime") if path.name != "__main__.py"]
    blocked = (*HEAVY, "cryptography", "tokenizers", "safetensors", "scipy", "yaml", "rich", "compress")
    code = (
        f"import importlib, sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        f"for name in {modules!r}: importlib.import_module(name)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_name_belongs_to_this_distribution(package: str) -> None:
    module = __import__(package)
    assert Path(str(module.__file__)).is_relative_to(REPO), f"{package} is {module.__file__}, another project's"


def packaged(match: Callable[[Path], bool]) -> list[str]:
    return [
        path.relative_to(REPO).as_posix() for folder in PACKAGES for path in (REPO / folder).rglob("*") if match(path)
    ]


def test_data_files_have_a_shipped_suffix() -> None:
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    suffixes = {path.suffix for path in map(Path, packaged(lambda p: p.is_file() and "__pycache__" not in p.parts))}
    missing = sorted(s for s in suffixes - {".py", ".pyc", ".typed"} if f'"**/*{s}"' not in text)
    assert not missing, f"package-data in pyproject.toml does not name {missing}; the wheel would lack them"
