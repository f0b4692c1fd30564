# SPDX-License-Identifier: Apache-2.0
"""May this `tokenizer.json` be handed to the tokenizers library? Asked of the plain JSON, first.

Measured with tokenizers 0.23 on hostile files: `Precompiled` aborts the process (it trusts a length of 2^32), chained
`Replace` steps double the text until memory is gone, BPE dropout answers by chance. Such parts are refused; what
remains fails by an error, which the wrapper turns into ours. A slow regular expression ends after 10^7 steps (0.35 s)
per match.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runtime.contract import loading_limits as limits
from runtime.contract.conventions import FileRole
from runtime.contract.manifest import parse_json
from runtime.errors import ContractError

PARTS = {
    kind: frozenset(names.split())
    for kind, names in {
        "normalizer": "Sequence NFC NFD NFKC NFKD Lowercase Strip StripAccents Replace Prepend BertNormalizer "
        "ByteLevel",
        "pre_tokenizer": "Sequence Whitespace WhitespaceSplit ByteLevel Split Metaspace Punctuation Digits "
        "BertPreTokenizer CharDelimiterSplit",
        "model": "BPE WordLevel WordPiece Unigram",
        "post_processor": "Sequence TemplateProcessing ByteLevel BertProcessing RobertaProcessing",
        "decoder": "Sequence ByteLevel Replace ByteFallback Fuse Strip Metaspace WordPiece BPEDecoder CTC",
    }.items()
}
KEYS = frozenset({"version", "truncation", "padding", "added_tokens", *PARTS})
STEPS = 32  # parts of one kind
PATTERN_CHARACTERS = 1024
GROWTH = 64.0  # by how much all Replace steps together may lengthen a text
TEMPLATE_ITEMS = 64


def check_tokenizer(data: bytes, where: str) -> None:
    """ContractError names `where` and the part that is not allowed."""
    content = parse_json(data, where, limits.FILE_BYTES[FileRole.TOKENIZER])
    if not isinstance(content, dict) or set(content) - KEYS or not isinstance(content.get("model"), dict):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ContractError(
            f"{where}: not a tokenizer file (found {str(found)[:200]}, expected the keys {sorted(KEYS)}); "
            "export the artifact again"
        )
    for kind, allowed in PARTS.items():
        steps = list(_steps(content.get(kind), f"{where}.{kind}"))
        if len(steps) > STEPS:
            raise ContractError(f"{where}.{kind}: found {len(steps)} steps, expected at most {STEPS}")
        for step in steps:
            name = step.get("type", "BPE" if kind == "model" else None)
            if not isinstance(name, str) or name not in allowed:
                raise ContractError(f"{where}.{kind}: found {str(name)[:40]!r}, expected one of {sorted(allowed)}")
            _check_step(step, f"{where}.{kind}.{name}")
        if kind == "normalizer":
            _check_growth(steps, f"{where}.{kind}")
    if content["model"].get("dropout") is not None:
        raise ContractError(f"{where}.model.dropout: found {content['model']['dropout']!r}, expected none: no chance")


def _steps(part: Any, where: str) -> Iterator[dict[str, Any]]:
    """The part and, for a Sequence, what is in it."""
    if part is None:
        return
    if not isinstance(part, dict):
        raise ContractError(f"{where}: found {str(part)[:80]}, expected an object with a type")
    yield part
    if part.get("type") == "Sequence":
        for key in ("normalizers", "pretokenizers", "processors", "decoders"):
            inner = part.get(key, [])
            if not isinstance(inner, list):
                raise ContractError(f"{where}.{key}: found {str(inner)[:80]}, expected a list")
            for step in inner:
                yield from _steps(step, where)


def _check_step(step: dict[str, Any], where: str) -> None:
    pattern = step.get("pattern")
    if pattern is not None and len(_pattern(pattern, where)) > PATTERN_CHARACTERS:
        raise ContractError(f"{where}.pattern: expected at most {PATTERN_CHARACTERS} characters")
    for key in ("single", "pair"):
        template = step.get(key, [])
        if step.get("type") == "TemplateProcessing" and (
            not isinstance(template, list) or len(template) > TEMPLATE_ITEMS
        ):
            raise ContractError(f"{where}.{key}: expected a list of at most {TEMPLATE_ITEMS} items")


def _pattern(pattern: Any, where: str) -> str:
    found = list(pattern.values()) if isinstance(pattern, dict) and set(pattern) <= {"String", "Regex"} else [pattern]
    if len(found) != 1 or not isinstance(found[0], str):
        raise ContractError(f"{where}.pattern: found {str(pattern)[:80]}, expected one String or Regex")
    return found[0]


def _check_growth(steps: list[dict[str, Any]], where: str) -> None:
    growth = 1.0
    for step in steps:
        if step.get("type") != "Replace":
            continue
        content, pattern = step.get("content"), step.get("pattern")
        if not isinstance(content, str):
            raise ContractError(f"{where}.Replace.content: found {str(content)[:80]}, expected text")
        literal = isinstance(pattern, dict) and "String" in pattern
        shortest = len(_pattern(pattern, where).encode("utf-8", "replace")) if literal else 1
        growth *= max(1.0, len(content.encode("utf-8", "replace")) / max(1, shortest))
        if (literal and shortest == 0) or growth > GROWTH:
            raise ContractError(f"{where}.Replace: a text may become {growth:g} times longer, expected {GROWTH:g}")
