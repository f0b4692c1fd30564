# SPDX-License-Identifier: Apache-2.0
"""Other words for the same task, by rules: another verb, another way round, politeness. Objects keep their names.

A policy that was exported for a closed list of sentences, or whose prompt is too short, refuses other words: the gate
asks beforehand and then does not run the panel (`compress.gate.panel_fit`).
"""

from __future__ import annotations

import re
from itertools import product

from compress.sim.perturb.base import BadPerturbation, Perturbation

# LIBERO's verbs; a sentence of two clauses ("open ... and put ...") has two
_VERBS = {
    "pick up": ("grab", "take", "lift"),
    "put": ("place", "set", "move"),
    "place": ("put", "set", "move"),
    "turn on": ("switch on", "start"),
    "turn off": ("switch off", "stop"),
    "open": ("pull open",),
    "close": ("shut",),
    "push": ("slide", "shove"),
    "stack": ("put", "place"),
}
_VERB = re.compile(rf"^({'|'.join(_VERBS)})\b|(?<=\band )({'|'.join(_VERBS)})\b")
_PUT = re.compile(r"^put (?P<what>the .+?) (?P<where>(?:in|on|under|inside|at) (?:top of )?the .+)$")
_POLITE = ("please {0}", "now {0}", "{0} please")


class Language(Perturbation):
    """strength 1: other verbs, or the place named first; strength 2: a polite frame around that."""

    axis, unit, default, highest = "language", "changes of words", 1.0, 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength not in (1, 2):
            raise BadPerturbation(f"strength of 'language' is {self.strength!r}, expected 1 or 2")

    def sentence(self, text: str) -> str:
        found = paraphrases(text)
        if self.strength == 2:
            found = tuple(frame.format(one) for one in found for frame in _POLITE)
        return found[int(self.rng().integers(len(found)))]


def paraphrases(text: str) -> tuple[str, ...]:
    """All paraphrases of strength 1, none equal to `text`. Raises BadPerturbation without a known verb."""
    verbs = [match for match in _VERB.finditer(text)]
    if not verbs:
        raise BadPerturbation(f"sentence {text!r} has no verb that has a synonym here: {', '.join(_VERBS)}")
    found = [_with_verbs(text, verbs, chosen) for chosen in product(*(_VERBS[match[0]] for match in verbs))]
    turned = _PUT.match(text)
    if turned and " and " not in text:
        found.append(f"{turned['where']} put {turned['what']}")
        found.append(f"take {turned['what']} and put it {turned['where']}")
    return tuple(found)


def _with_verbs(text: str, verbs: list[re.Match[str]], chosen: tuple[str, ...]) -> str:
    for match, verb in reversed(list(zip(verbs, chosen, strict=True))):
        text = text[: match.start()] + verb + text[match.end() :]
    return text
