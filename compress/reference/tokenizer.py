# SPDX-License-Identifier: Apache-2.0
"""The reference policy's tokenizer: byte-level BPE, trained on a short list of manipulation sentences."""

from __future__ import annotations

import functools
from pathlib import Path

from compress.atomic import write_atomic

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
OBJECTS = ("block", "bowl", "mug", "plate", "bottle", "box", "can", "book", "pot", "pan", "cup", "basket")
COLOURS = ("red", "blue", "green", "yellow", "black", "white")
PLACES = ("tray", "plate", "bowl", "drawer", "stove", "cabinet", "rack", "table", "basket", "microwave")
SIDES = ("left", "right", "top", "bottom", "front", "back", "middle")


def corpus() -> list[str]:
    """Sentences in the manner of LIBERO's tasks, in a fixed order."""
    sentences = [
        f"put the {colour} {thing} in the {side} {place}"
        for colour in COLOURS
        for thing in OBJECTS
        for side in SIDES
        for place in PLACES
    ]
    sentences += [
        f"pick up the {colour} {thing} and place it on the {place}"
        for colour in COLOURS
        for thing in OBJECTS
        for place in PLACES
    ]
    sentences += [f"open the {side} {place}" for side in SIDES for place in PLACES]
    sentences += [f"close the {side} {place}" for side in SIDES for place in PLACES]
    sentences += [
        f"push the {thing} to the {side} of the {place}" for thing in OBJECTS for side in SIDES for place in PLACES
    ]
    sentences += ["turn on the stove", "turn off the stove", "next to", "between", "both"]
    return sentences


def build(path: Path, vocab_size: int) -> None:
    """Write `tokenizer.json`."""
    write_atomic(path, lambda stream: stream.write(trained(vocab_size)))


@functools.cache
def trained(vocab_size: int) -> bytes:
    """Bytes of a `tokenizer.json` trained on `corpus`; the same input gives the same bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    text: str = tokenizer.to_str(pretty=True)
    return text.encode()
