# SPDX-License-Identifier: Apache-2.0
"""No engine comes with an artifact: a serialised engine is a program for one GPU, and nobody here has proved it.

Refused by name, by the first bytes that every TensorRT plan starts with, and as ONNX Runtime's embedded form (a node
`EPContext`, whose attribute is such a plan).
"""

from __future__ import annotations

from pathlib import Path

from runtime.contract.conventions import FileRole
from runtime.contract.manifest import Manifest
from runtime.errors import ArtifactError

SUFFIXES = (".plan", ".engine", ".trt", ".cache", ".rtx")
MAGIC_AT, MAGIC = slice(1, 4), b"trt"  # `ftrt`, `ptrt`, `vtrt`
EMBEDDED = b"EPContext"
BLOCK = 1 << 20


def refuse_shipped_engines(root: Path, manifest: Manifest) -> None:
    """ArtifactError names the file of the artifact that is, or holds, a serialised engine."""
    for entry in manifest.files:
        path = root / entry.path
        with path.open("rb") as stream:
            head = stream.read(8)
            plan = entry.path.lower().endswith(SUFFIXES) or (len(head) == 8 and head[MAGIC_AT] == MAGIC)
            embedded = entry.role is FileRole.MODEL and _holds(path, EMBEDDED)
        if plan or embedded:
            what = "holds an embedded engine (EPContext)" if embedded else "is a serialised engine"
            raise ArtifactError(
                f"{path}: {what}, expected none: engines are built on the station from the ONNX graph; "
                "take the artifact from its builder again"
            )


def _holds(path: Path, wanted: bytes) -> bool:
    """Whether the bytes occur in the file, read in blocks that overlap."""
    tail = b""
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            if wanted in tail + block:
                return True
            tail = block[-len(wanted) :]
    return False
