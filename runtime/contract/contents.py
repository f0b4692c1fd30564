# SPDX-License-Identifier: Apache-2.0
"""Is what an artifact holds plain enough to be handed to a library? Graph, tokenizer and normalisation, by their bytes.

An intact file may still be made to harm: digests say that nothing changed, not that somebody meant well. The same check
runs where an artifact is written, verified and loaded, so nothing is written that will be refused.
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.contract.conventions import FileRole
from runtime.contract.manifest import Manifest
from runtime.contract.onnx_outline import read_outline
from runtime.contract.onnx_rules import check_outline
from runtime.contract.tensors_header import check_tensors_header
from runtime.contract.tokenizer_rules import check_tokenizer
from runtime.errors import ContractError


def check_contents(manifest: Manifest, read: Callable[[str], bytes]) -> None:
    """ContractError names the first file that no robot loads and why; `read` gives verified bytes by path."""
    policy = manifest.policy
    weights = {entry.path: entry.size for entry in manifest.files if entry.role is FileRole.MODEL_DATA}
    for entry in manifest.files:
        if entry.role is FileRole.MODEL:
            outline = read_outline(read(entry.path), entry.path)
            try:
                check_outline(outline, policy.graph, policy.engine.opset, manifest.lineage_id, weights)
            except ContractError as error:
                raise ContractError(f"{entry.path}: {error}; export it again") from None
        elif entry.role is FileRole.TOKENIZER:
            check_tokenizer(read(entry.path), entry.path)
        elif entry.role is FileRole.NORMALIZATION:
            check_tensors_header(read(entry.path), entry.path)
