# SPDX-License-Identifier: Apache-2.0
"""Errors of the runtime, one class per person who can fix it (leaf module: imports nothing of ours).

Messages say what was found, what was expected, what is available, and the next command.
"""

from __future__ import annotations

INSTALL_ONNX = 'pip install -e ".[onnx]" in the DropGate checkout'
INSTALL_SIGNING = 'pip install -e ".[signing]" in the DropGate checkout'


class DropGateRuntimeError(Exception):
    """Base of every error that the runtime raises on purpose."""


class ContractError(DropGateRuntimeError):
    """A spec, manifest or tensor file is not valid. Fixed by whoever wrote the artifact (the exporter)."""


class ArtifactError(DropGateRuntimeError):
    """An artifact directory is not what its manifest says. Fixed by whoever delivered it: copy or seal it again."""


class GateRefusedError(ArtifactError):
    """The artifact is intact but its gate verdict does not allow this use.

    Fixed by running the gate, or by a better plan.
    """


class TrustError(DropGateRuntimeError):
    """The station's trust store is missing, unsafe or damaged, or signatures cannot be checked here at all.

    Fixed by whoever administers the station.
    """


class ObservationError(DropGateRuntimeError):
    """An observation or instruction does not fit the spec. Fixed on the robot side: camera, driver, or task text."""


class BackendError(DropGateRuntimeError):
    """An inference engine is missing, was refused, or failed.

    Fixed on the station: install, provider, threads, build.
    """


class PolicyOutputError(DropGateRuntimeError):
    """The policy answered with something that is not an action (NaN, infinite, wrong shape).

    Fixed by the policy's author.
    """


class WireError(DropGateRuntimeError):
    """Bytes between controller and policy worker are not a valid frame or message.

    Never repaired: the link is dropped. Fixed by running the same version on both sides.
    """
