# SPDX-License-Identifier: Apache-2.0
"""A forged, changed, exchanged, old or revoked artifact is refused with its reason; good ones are all accepted.

The same mutations by the thousand: benchmarks/attack_suite.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import attack_mutations
import pytest
from attack_bundles import ACCEPTED, Bundle, bundles
from attack_list import ATTACKS
from attack_run import false_refusals
from attacks import BUILD, RELEASE, Attack
from signing_factory import NOW, nothing_revoked, write_trust

from runtime.contract.signed import SignedVerifier
from runtime.contract.trust_store import TrustStore
from runtime.errors import ArtifactError, GateRefusedError
from runtime.inference.golden import golden_parity
from runtime.inference.policy import Policy

GOOD = 20


@pytest.fixture(scope="module")
def good() -> list[Bundle]:
    return bundles(GOOD)


def test_good_bundles_differ(good: list[Bundle]) -> None:
    assert len({bundle.files["artifact/manifest.json"] for bundle in good}) == GOOD


def test_good_bundles_are_accepted_as_long_as_they_count(good: list[Bundle], tmp_path: Path) -> None:
    assert false_refusals(good, tmp_path) == []


def test_revocation_of_others_changes_nothing(good: list[Bundle], tmp_path: Path) -> None:
    case = good[0].write(tmp_path)
    others = nothing_revoked(keys=(good[2].who.builder.keyid,), artifacts=("1" * 64,))
    write_trust(case.trust, case.who.trust(revoked=others))
    assert case.answer() == ACCEPTED


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_refused_with_its_reason(attack: Attack, good: list[Bundle], tmp_path: Path) -> None:
    case = good[0].write(tmp_path)
    attack.act(case, good[1])
    answer = case.answer()
    assert re.search(attack.reason, answer), answer


def test_attacks_have_different_names() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names))


def test_random_mutations_are_refused(good: list[Bundle], tmp_path: Path) -> None:
    found = attack_mutations.run(good, 66, 0, tmp_path)
    assert found.accepted == []
    assert found.foreign == []
    assert set(found.by_kind) == set(attack_mutations.KINDS)
    assert sum(found.by_kind.values()) == 66


def test_mutation_that_is_accepted_would_be_seen(
    good: list[Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A station that checks integrity only falls for a file that comes with new digests."""
    monkeypatch.setattr("runtime.contract.signed.SignedVerifier.verify", lambda *given: None)
    found = attack_mutations.run(good, 33, 0, tmp_path)
    assert {case["kind"] for case in found.accepted} >= {"payload edited", "clock", "revoked"}


def test_released_policy_loads_and_an_unsigned_one_does_not(good: list[Bundle], tmp_path: Path) -> None:
    """Through the door that the robot uses, up to its answer."""
    case = good[1].write(tmp_path)
    verifier = SignedVerifier(TrustStore.load(case.trust), lambda: NOW)
    with Policy.load(case.artifact, verifier=verifier) as policy:
        assert golden_parity(policy).ok
    (case.artifact / RELEASE).unlink()
    with pytest.raises(GateRefusedError, match="not released"):
        Policy.load(case.artifact, verifier=verifier)
    with Policy.load(case.artifact, verifier=replace(verifier, require_release=False)) as policy:  # shadow mode
        assert golden_parity(policy).ok
    (case.artifact / BUILD).unlink()
    with pytest.raises(ArtifactError, match="unsigned"):
        Policy.load(case.artifact, verifier=replace(verifier, require_release=False))
