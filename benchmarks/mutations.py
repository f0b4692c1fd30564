# SPDX-License-Identifier: Apache-2.0
"""The faults that `mutants.py` puts into a module: one small change of its syntax tree each."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_OTHER: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}  # fmt: skip
_SIGNS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
}  # fmt: skip
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum"}


@dataclass(frozen=True)
class Mutant:
    """One fault. `id` is line, column and kind; `change` is the expression before and after; `source` the module."""

    id: str
    line: int
    kind: str
    change: str
    source: str


def mutants_of(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of the tree."""
    tree = ast.parse(source)
    seen: dict[str, int] = {}
    for node, parent, field, place in list(_places(tree)):
        for kind, other in _changes(node):
            before = ast.unparse(node)
            holder = getattr(parent, field)
            if place is None:
                setattr(parent, field, other)
            else:
                holder[place] = other
            whole = ast.unparse(tree)
            if place is None:
                setattr(parent, field, node)
            else:
                holder[place] = node
            name = f"{node.lineno}:{node.col_offset}:{kind}"  # type: ignore[attr-defined]
            seen[name] = seen.get(name, 0) + 1
            name += f":{seen[name]}" if seen[name] > 1 else ""
            change = f"{_short(before)} -> {_short(ast.unparse(other))}"
            yield Mutant(name, node.lineno, kind, change, whole)  # type: ignore[attr-defined]


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST, str, int | None]]:
    """(node, its parent, field, place in the field) of all that may be changed."""
    for field, value in ast.iter_fields(tree):
        children = value if isinstance(value, list) else [value]
        for place, child in enumerate(children):
            if not isinstance(child, ast.AST) or _fixed(tree, field, child):
                continue
            if hasattr(child, "lineno"):
                yield child, tree, field, place if isinstance(value, list) else None
            if not isinstance(child, ast.Raise):  # what an error says is not judged here
                yield from _places(child)


def _fixed(parent: ast.AST, field: str, child: ast.AST) -> bool:
    """Types, decorators, texts, imports, documentation."""
    if field in ("annotation", "returns", "decorator_list", "bases") or isinstance(child, ast.JoinedStr):
        return True
    if isinstance(child, (ast.Import, ast.ImportFrom)):
        return True
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
        return True
    return isinstance(parent, ast.If) and ast.unparse(parent.test) == "TYPE_CHECKING"


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            for other in _OTHER[type(op)]:
                yield "comparison", _with(node, ops=[*node.ops[:place], other(), *node.ops[place + 1 :]])
    elif isinstance(node, ast.BoolOp):
        yield "and/or", _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        for place in range(len(node.values)):
            left = [value for i, value in enumerate(node.values) if i != place]
            yield "left out", left[0] if len(left) == 1 else _with(node, values=left)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "negation", node.operand
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield "sign", node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        yield "arithmetic", _with(node, op=_SIGNS[type(node.op)]())
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.Name) and node.id in _NAMES:
        yield "function", _with(node, id=_NAMES[node.id])
    elif isinstance(node, ast.Attribute) and node.attr in _NAMES:
        yield "function", _with(node, attr=_NAMES[node.attr])
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield "condition", _with(node, test=_not(node.test))
    elif isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield "removed", ast.copy_location(ast.Pass(), node)


def _constants(node: ast.Constant) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node.value, bool):
        yield "constant", ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield "constant", ast.Constant(node.value + 1)
    elif isinstance(node.value, float):
        yield "constant", ast.Constant(node.value * 1.1 if node.value else 1.0)


def _not(test: ast.expr) -> ast.expr:
    return (
        test.operand if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) else ast.UnaryOp(ast.Not(), test)
    )


def _with(node: ast.AST, **changes: object) -> ast.AST:
    other = copy.copy(node)
    for name, value in changes.items():
        setattr(other, name, value)
    return other


def _short(text: str) -> str:
    first = " ".join(text.split("\n", 1)[0].split())
    return first if len(first) <= 90 else f"{first[:87]}..."
