# SPDX-License-Identifier: Apache-2.0
"""Has this engine been proven with this artifact? What the exporter did not prove is proven on the robot's machine.

The manifest lists the providers of ONNX Runtime that passed parity when the artifact was made. Any other engine or
provider (OpenVINO, CUDA, TensorRT) is somebody else's arithmetic: before it may answer a controller it answers the
golden samples, within the artifact's own tolerance. Chosen over a longer list in the manifest, because an exporter
without a GPU cannot prove a GPU, and because what counts is the engine that is installed on the robot today.
"""

from __future__ import annotations

from pathlib import Path

from runtime.contract.artifact import SignatureVerifier
from runtime.errors import BackendError
from runtime.inference.golden import GoldenParity, golden_parity
from runtime.inference.policy import Policy


def load_proven(
    artifact_dir: str | Path,
    backend: str = "onnxruntime",
    *,
    threads: int | None = None,
    provider: str | None = None,
    require_promoted: bool = True,
    again: bool = False,
    verifier: SignatureVerifier | None = None,
) -> tuple[Policy, GoldenParity | None]:
    """A policy whose engine has been proven, and the proof if it was made now; None where the manifest has it already
    and it is not wanted `again`, on this machine.

    Arguments and errors as of `Policy.load`; BackendError also if the golden samples get other answers.
    """
    policy = Policy.load(
        artifact_dir,
        backend,
        threads=threads,
        provider=provider,
        require_promoted=require_promoted,
        allow_unproven=True,
        verifier=verifier,
    )
    if policy.proven and not again:
        return policy, None
    try:
        parity = golden_parity(policy)
    except BaseException:
        policy.close()
        raise
    if parity.ok:
        return policy, parity
    policy.close()
    worst = max(parity.max_abs, key=lambda name: parity.max_abs[name])
    raise BackendError(
        f"engine {policy.description}: {worst} of the golden samples differs by {parity.max_abs[worst]:.2e} of a "
        f"command, the artifact allows {parity.tolerance:.0e}. It was proven with "
        f"{list(policy.manifest.policy.engine.providers)} of onnxruntime; use that, or look with: "
        f"python -m runtime verify --run --backend {backend} {artifact_dir}"
    )
