# SPDX-License-Identifier: Apache-2.0
"""YAML without its traps: a key may appear once, and `5e-4` is a number (YAML 1.2), not text (YAML 1.1)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml


class YamlError(ValueError):
    """The file is not the YAML that a recipe may be; the message names file, line and key."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a repeated key and reads all decimal floats."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise YamlError(f"line {line}: key {key!r} is a {type(key).__name__}, expected text")
        if key in seen:
            raise YamlError(f"line {line}: key `{key}` is already set in line {seen[key]}; keep one of them")
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read one mapping.

    Raises:
        YamlError: no such file, not YAML, a repeated key, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise YamlError(
            f"{path}: cannot be read ({error.strerror}); recipes that ship with DropGate are in recipes/"
        ) from error
    except UnicodeDecodeError as error:
        raise YamlError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    try:
        data = yaml.load(text, Loader=_Loader)
    except YamlError as error:
        raise YamlError(f"{path}: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise YamlError(f"{path}: not valid YAML{line}: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(data, dict):
        raise YamlError(
            f"{path}: holds a {type(data).__name__}, expected a mapping of sections such as `model:` and `plan:`"
        )
    return data


def dump_yaml(data: dict[str, Any]) -> str:
    """Text that `load_yaml` reads back as the same data, in the order of the keys."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=False)
