# SPDX-License-Identifier: Apache-2.0
"""Which packages took part in making an artifact, by their installed versions."""

from __future__ import annotations

from importlib import metadata

from runtime.contract.manifest import PackageVersion

PACKAGES = (
    "dropgate",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxscript",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def created_with() -> tuple[PackageVersion, ...]:
    """The packages of `PACKAGES` that are installed here; a source checkout has no `dropgate` distribution."""
    found = ((name, installed(name)) for name in PACKAGES)
    return tuple(PackageVersion(name, version) for name, version in found if version is not None)
