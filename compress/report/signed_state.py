# SPDX-License-Identifier: Apache-2.0
"""What the station's trust store says of an artifact's signatures, as the page needs it.

The check is the runtime's own. A page that is sealed into the artifact cannot show signatures, which are made over the
finished manifest: only a page that is rendered afterwards with `--trust` can.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from runtime.contract.artifact import Artifact
from runtime.contract.manifest import SIGNATURES_DIR
from runtime.contract.signed import Signed, verify_signed
from runtime.contract.statements import BUILD_FILE
from runtime.contract.trust_store import TrustStore
from runtime.contract.utc_time import format_utc
from runtime.errors import ArtifactError

NO_ARTIFACT, UNCHECKED, UNSIGNED, REFUSED, BUILT, RELEASED = (
    "no artifact", "unchecked", "unsigned", "refused", "built", "released",
)  # fmt: skip


@dataclass(frozen=True)
class SignedState:
    """Where the signatures stand.

    Attributes:
        state: one of the constants above.
        reason: why it is `unsigned` or `refused`.
        signed: what was vouched for, of `built` and `released`.
        store, checked_at: against which trust store, and when (UTC); empty if it was not checked.
        present: there is a folder of signatures, whatever it is worth.
    """

    state: str
    reason: str = ""
    signed: Signed | None = None
    store: str = ""
    checked_at: str = ""
    present: bool = False


def signed_state(artifact: Artifact | None, trust: Path | None, now: datetime | None) -> SignedState:
    """Check the signatures of `artifact` at `now`; without a store or an artifact nothing is checked.

    Raises:
        TrustError: the store itself cannot be used.
    """
    if artifact is None:
        return SignedState(NO_ARTIFACT)
    present = (artifact.root / SIGNATURES_DIR).exists()
    if trust is None or now is None:
        return SignedState(UNCHECKED, present=present)
    store, checked = str(trust), format_utc(now)
    try:
        found = verify_signed(artifact.root, artifact.manifest, artifact.manifest_bytes, TrustStore.load(trust), now)
    except ArtifactError as error:  # GateRefusedError is one
        signed = (artifact.root / SIGNATURES_DIR / BUILD_FILE).exists()
        return SignedState(REFUSED if signed else UNSIGNED, str(error), None, store, checked, present)
    return SignedState(BUILT if found.release is None else RELEASED, "", found, store, checked, present)
