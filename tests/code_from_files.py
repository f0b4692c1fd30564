# SPDX-License-Identifier: Apache-2.0
"""Where would a program run code that came in a file or in text? Read from its syntax tree, with imports resolved."""

from __future__ import annotations

import ast
from collections.abc import Iterator

PICKLES = {
    "pickle", "_pickle", "cPickle", "pickletools", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle",
    "hickle", "sklearn.externals.joblib", "torch.package",
}  # fmt: skip
RUNS = {"eval", "exec", "compile", "builtins.eval", "builtins.exec", "builtins.compile", "__import__"}
READS = {
    "torch.load", "torch.jit.load", "torch.hub.load", "torch.serialization.load", "torch.export.load",
    "torch.serialization.safe_globals", "torch.serialization.add_safe_globals", "pandas.read_pickle", "numpy.loads",
    "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all", "runpy.run_path",
    "code.interact", "importlib.util.spec_from_file_location",
}  # fmt: skip
LOADS_YAML = {"yaml.load", "yaml.load_all"}
SAFE_YAML = {"yaml.SafeLoader", "yaml.CSafeLoader", "yaml.BaseLoader"}


def offences(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and what is done there: `torch.load`, `pickle`, `eval`, ..."""
    names, safe = _imported(tree), set(SAFE_YAML)
    for node in ast.walk(tree):  # a loader of ours that is a SafeLoader is one
        if isinstance(node, ast.ClassDef) and any(_full(base, names) in SAFE_YAML for base in node.bases):
            safe.add(node.name)
    for node in ast.walk(tree):
        for found in _found(node, names, safe):
            yield getattr(node, "lineno", 0), found


def _found(node: ast.AST, names: dict[str, str], safe: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if _pickle(alias.name))
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        yield from ([module] if _pickle(module) else [])
        whole = [f"{module}.{alias.name}" for alias in node.names]
        yield from (name for name in whole if name in READS | PICKLES | RUNS and not _pickle(module))
    elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        yield from [] if isinstance(node.value, ast.Constant) and node.value.value is False else ["allow_pickle"]
    elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
        name = _full(node, names)
        yield from [name] if name in READS | RUNS else []
    elif isinstance(node, ast.Call):
        yield from _call(node, names, safe)


def _call(node: ast.Call, names: dict[str, str], safe: set[str]) -> Iterator[str]:
    name = _full(node.func, names)
    if name in LOADS_YAML:
        loader = {item.arg: item.value for item in node.keywords}.get("Loader", node.args[1] if node.args[1:] else None)
        yield from [] if loader is not None and _full(loader, names) in safe else [name]
    if name in ("importlib.import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
        yield from [str(node.args[0].value)] if _pickle(str(node.args[0].value)) else []
    if name == "getattr" and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
        named = f"{_full(node.args[0], names)}.{node.args[1].value}"
        yield from [named] if named in READS | RUNS else []
    if name in ("numpy.load", "numpy.lib.format.read_array") and len(node.args) > 2:  # the third is allow_pickle
        yield "allow_pickle"


def _pickle(module: str) -> bool:
    return module in PICKLES or module.split(".")[0] in PICKLES


def _imported(tree: ast.Module) -> dict[str, str]:
    """Local name -> full dotted name, wherever in the file it is imported."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                head = alias.name if alias.asname else alias.name.split(".")[0]
                found[alias.asname or head] = head
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _full(node: ast.expr, names: dict[str, str]) -> str:
    """`np.load` -> `numpy.load`; '' for what is no plain name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([names.get(node.id, node.id), *reversed(parts)])
