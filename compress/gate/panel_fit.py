# SPDX-License-Identifier: Apache-2.0
"""Can both policies be told what a panel tells them? A closed list of tasks or a short prompt refuses other sentences.

Asked before the panel, because a policy that refuses every sentence would count as one that fails every episode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from compress.gate.panel_spec import INSTRUCTION_SWAP
from compress.gate.plan import GatePlan
from compress.gate.policies import PolicySource
from compress.sim.perturb.base import BadPerturbation
from compress.sim.perturb.language import Language
from compress.sim.perturb.registry import perturbation

SPEAKING = (Language.axis, INSTRUCTION_SWAP)


def refused_panels(plan: GatePlan, arms: Mapping[str, PolicySource]) -> dict[str, str]:
    """Panels of the plan that cannot be run, with the reason; only those that change the sentence can be refused."""
    found = {}
    for name in (name for name in SPEAKING if name in plan.panels):
        try:
            sentences = told(plan, name)
        except BadPerturbation as error:
            found[name] = str(error)
            continue
        for arm, source in arms.items():
            why = refusal(source, sentences)
            if why:
                found.setdefault(name, f"{arm} cannot be told these sentences: {why}")
    return found


def told(plan: GatePlan, name: str) -> list[str]:
    """Every sentence that the panel gives, sorted."""
    sentences = set()
    for pair, task in plan.panels[name]:
        text = plan.task(task).sentence
        if name == Language.axis:
            strength = plan.protocol["panels"][name]["strength"]
            text = perturbation(name, pair.task, pair.state, pair.seed, strength).sentence(text)
        sentences.add(text)
    return sorted(sentences)


def refusal(source: PolicySource, sentences: Iterable[str]) -> str:
    """Why an artifact's own tokenizer refuses one of the sentences; empty if it takes all (or is no artifact)."""
    if not source.artifact:
        return ""
    from runtime.contract.artifact import read_artifact
    from runtime.errors import ObservationError
    from runtime.inference.tokenizer import PromptTokenizer

    artifact = read_artifact(Path(source.artifact))
    policy = artifact.manifest.policy
    tokenizer = PromptTokenizer(artifact.read_bytes(policy.prompt.tokenizer_file), policy.prompt)
    state = np.zeros(policy.observation.state.dim) if policy.prompt.needs_state else None
    for sentence in sentences:
        try:
            tokenizer.encode(sentence, state)
        except ObservationError as error:
            return str(error)
    return ""
