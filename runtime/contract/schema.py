# SPDX-License-Identifier: Apache-2.0
"""JSON schema of the manifest, generated from the dataclasses, for tools that are not ours.

`manifest.schema.json` beside this file is the output of `python -m runtime.contract.schema`; a test keeps them equal.
It states structure and enums; cross-field rules live in the constructors.
"""

from __future__ import annotations

import dataclasses
import sys
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

from runtime.contract.codec import field_types, omittable, optional_inner
from runtime.contract.manifest import SCHEMA_VERSION, Manifest, canonical_json

SCHEMA_FILE = Path(__file__).with_name("manifest.schema.json")
_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
}


def manifest_schema() -> dict[str, Any]:
    """The schema as plain data (JSON Schema draft 2020-12)."""
    definitions: dict[str, Any] = {}
    _reference(Manifest, definitions)
    top = definitions.pop("Manifest")
    top["properties"] = {**top["properties"], "artifact_id": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}
    top["required"] = sorted([*top["required"], "artifact_id"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"DropGate artifact manifest {SCHEMA_VERSION}",
        **top,
        "$defs": definitions,
    }


def _of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    inner = optional_inner(hint)
    if inner is not None:
        return {"anyOf": [_of(inner, definitions), {"type": "null"}]}
    if get_origin(hint) is tuple:
        args = get_args(hint)
        if args[-1] is Ellipsis:
            return {"type": "array", "items": _of(args[0], definitions)}
        items = [_of(arg, definitions) for arg in args]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [member.value for member in hint]}
    if dataclasses.is_dataclass(hint):
        return _reference(hint, definitions)
    return dict(_PLAIN[hint])


def _reference(cls: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if cls.__name__ not in definitions:
        definitions[cls.__name__] = {}
        hints = field_types(cls)
        definitions[cls.__name__] = {
            "type": "object",
            "description": (cls.__doc__ or "").strip().split("\n")[0],
            "properties": {name: _of(hint, definitions) for name, hint in hints.items()},
            "required": sorted(set(hints) - omittable(cls)),
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{cls.__name__}"}


if __name__ == "__main__":
    sys.stdout.buffer.write(canonical_json(manifest_schema()))
