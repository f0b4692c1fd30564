# SPDX-License-Identifier: Apache-2.0
"""Instruction -> token ids by `tokenizer.json`: the only importer of `tokenizers`. No transformers, no network.

Padding and truncation stored inside the file are switched off: the contract's `PromptSpec` alone decides, and a prompt
that does not fit is refused, because a task with its end cut off is another task.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.contract.loading_limits import INSTRUCTION_CHARACTERS
from runtime.contract.panics import panics_as_errors
from runtime.contract.spec import PromptSpec
from runtime.contract.tokenizer_rules import check_tokenizer
from runtime.errors import INSTALL_ONNX, BackendError, ContractError, ObservationError

Tokens = NDArray[np.int64]


class PromptTokenizer:
    """Tokenises by one `PromptSpec`. `data` are the bytes of `tokenizer.json`; ContractError if they are not one."""

    def __init__(self, data: bytes, spec: PromptSpec) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise BackendError(
                f"prompts need the package tokenizers, which is not importable ({error}); run: {INSTALL_ONNX}"
            ) from error
        self._spec = spec
        self._tokenizer = _parse(tokenizers, data, spec.tokenizer_file)

    def encode(self, instruction: str, state: NDArray[np.floating] | None = None) -> tuple[Tokens, Tokens]:
        """Token ids and attention mask (1 = token, 0 = padding on the right), each (1, max_tokens) int64, read-only.

        `state` (S,), normalised, is needed where the prompt carries it.

        ObservationError if the instruction is empty or not in the list of tasks, or its prompt is longer than
        `max_tokens`.
        """
        if not isinstance(instruction, str) or not instruction.strip():
            raise ObservationError(f"instruction: found {instruction!r}, expected text that says what to do")
        if not self._spec.admits(instruction):
            raise ObservationError(
                f"instruction: found {instruction!r}, but this policy was exported for a closed list of tasks: "
                f"{list(self._spec.tasks or ())}; give one of them, or export without `export.tasks`"
            )
        text = self._spec.render(instruction, state)
        if len(text) > INSTRUCTION_CHARACTERS:
            raise ObservationError(
                f"instruction: found {len(text)} characters, expected at most {INSTRUCTION_CHARACTERS}"
            )
        try:
            with panics_as_errors():
                tokens = self._tokenizer.encode(text, add_special_tokens=self._spec.add_special_tokens).ids
        except Exception as error:  # the binding raises plain Exception, for instance where a token has no number
            raise ObservationError(f"instruction: the tokenizer cannot read {text!r} ({error})") from error
        limit = self._spec.max_tokens
        if not 0 < len(tokens) <= limit:
            raise ObservationError(
                f"instruction: found {len(tokens)} tokens in {text!r}, expected 1 to {limit}; shorten the instruction"
            )
        ids = np.full((1, limit), self._spec.pad_id, dtype=np.int64)
        mask = np.zeros((1, limit), dtype=np.int64)
        ids[0, : len(tokens)] = tokens
        mask[0, : len(tokens)] = 1
        ids.setflags(write=False)
        mask.setflags(write=False)
        return ids, mask

    def texts(self) -> list[str]:
        """What each token stands for, by id; the list is as long as the highest id plus one."""
        known = self._tokenizer.get_vocab(with_added_tokens=True)
        ids = [[number] for number in range(max(known.values()) + 1)]
        return list(self._tokenizer.decode_batch(ids, skip_special_tokens=False))


def _parse(tokenizers: Any, data: bytes, name: str) -> Any:
    check_tokenizer(data, name)
    try:
        with panics_as_errors():
            tokenizer = tokenizers.Tokenizer.from_buffer(data)
            tokenizer.no_padding()
            tokenizer.no_truncation()
    except Exception as error:  # the binding raises plain Exception for every parse failure
        raise ContractError(f"{name}: not a tokenizer file ({error}); export the artifact again") from error
    return tokenizer
