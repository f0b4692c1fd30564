# SPDX-License-Identifier: Apache-2.0
"""From directories to a decision: read trust store, station policy, signatures, gate report, regression; then `admit`.

Everything but the artifact's large files is read again at each call, so a revocation counts at the next arming.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from runtime.contract.admission import Admission, StationFacts, admit
from runtime.contract.artifact import Artifact
from runtime.contract.dsse import Envelope
from runtime.contract.finding import Check
from runtime.contract.gate_report import read_gate_report
from runtime.contract.loading_limits import ENVELOPE_BYTES
from runtime.contract.manifest import SIGNATURES_DIR
from runtime.contract.regression import check_regression
from runtime.contract.regular_file import read_bounded
from runtime.contract.signed import CLOCK_SKEW, Signed, verify_signed
from runtime.contract.statements import RELEASE_FILE, RELEASE_TYPE, ReleaseStatement
from runtime.contract.station_policy import StationPolicy
from runtime.contract.trust_store import TrustStore
from runtime.contract.utc_time import format_utc, parse_utc
from runtime.errors import ArtifactError, DropGateRuntimeError, TrustError

T = TypeVar("T")
NO_TRUST = "no trust store is given; expected a directory with keys.json and revoked.json: trust_store"
NO_POLICY = "no station policy is given; expected a file such as launch/config/station_policy.json: station_policy"
FILES = "files"


def decide(
    artifact: Artifact | DropGateRuntimeError,
    trust: Path | None,
    policy: Path | None,
    station: StationFacts,
    now: datetime,
) -> Admission:
    """The decision about a verified artifact (or the error in its place) at `now`; never raises for what it finds.

    Args:
        artifact: from `read_artifact`.
        trust: the station's trust store; None is a failed check.
        policy: the station's policy file; None is a failed check.
        station: what the robot runs with.
        now: aware wall-clock time.
    """
    store = _or_error(lambda: TrustStore.load(_given(trust, NO_TRUST)))
    demands = _or_error(lambda: StationPolicy.load(_given(policy, NO_POLICY)))
    if not isinstance(artifact, Artifact):
        failed = store if isinstance(store, DropGateRuntimeError) else None
        return admit(artifact, failed, None, demands, station, now, regression=None).plus(_clock(store, now))
    signed: Signed | DropGateRuntimeError
    if isinstance(store, TrustStore):
        known = store
        signed = _or_error(lambda: verify_signed(artifact.root, artifact.manifest, artifact.manifest_bytes, known, now))
        stated = None if isinstance(signed, Signed) else _stated(artifact.root, known)
    else:
        signed, stated = store, None
    gate = _or_error(lambda: read_gate_report(artifact))
    regression = _or_error(lambda: check_regression(artifact, station.robot, station.limits_sha256))
    found = admit(artifact, signed, gate, demands, station, now, regression=regression, stated=stated)
    return found.plus(_clock(store, now))


def untouched(artifact: Artifact) -> Check:
    """Are the artifact's files still the very ones that were verified? For everything that is decided later."""
    touched = artifact.touched()
    found = f"touched since they were verified: {', '.join(touched)}" if touched else "as verified"
    return Check(FILES, not touched, found, "the verified files; configure again")


def _given(path: Path | None, why: str) -> Path:
    if path is None:
        raise TrustError(why)
    return path


def _or_error(get: Callable[[], T]) -> T | DropGateRuntimeError:
    try:
        return get()
    except DropGateRuntimeError as error:
        return error
    except OSError as error:
        return ArtifactError(str(error))


def _clock(store: TrustStore | DropGateRuntimeError, now: datetime) -> Check:
    """A clock that was set back would bring ended releases to life; the revocations' own date is later than it then."""
    expected = "the time of the last revocation list or later; set this station's clock"
    if not isinstance(store, TrustStore):
        return Check("clock", None, "unknown", expected)
    listed = parse_utc(store.revoked.updated_at, "revoked.updated_at")
    return Check(
        "clock", now + CLOCK_SKEW >= listed, f"{format_utc(now)}, revocations of {format_utc(listed)}", expected
    )


def _stated(root: Path, trust: TrustStore) -> ReleaseStatement | None:
    """The release whose signature fits a key of the store, whatever else is wrong with it. Only to name more faults."""
    try:
        data = read_bounded(root, f"{SIGNATURES_DIR}/{RELEASE_FILE}", ENVELOPE_BYTES)
        envelope = Envelope.from_json(data, RELEASE_FILE, RELEASE_TYPE)
        key = trust.key(envelope.keyid)
        return None if key is None else ReleaseStatement.from_json(envelope.opened(key.public, RELEASE_FILE))
    except (DropGateRuntimeError, OSError):
        return None
