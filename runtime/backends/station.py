# SPDX-License-Identifier: Apache-2.0
"""Which machine is this, as far as an engine depends on it."""

from __future__ import annotations

from typing import Any

from runtime.backends.cuda import Cuda, system
from runtime.backends.engine_key import StationFacts
from runtime.backends.tensorrt_library import version_of


def station_facts(trt: Any, cuda: Cuda) -> StationFacts:
    """Asked of the libraries and the driver, never of a configuration."""
    device = cuda.facts()
    name, machine = system()
    return StationFacts(
        library=trt.__name__,
        library_version=version_of(trt),
        cuda_runtime=device.cuda_runtime,
        cuda_driver=device.cuda_driver,
        kernel_driver=device.kernel_driver,
        gpu=device.gpu,
        sm=device.sm,
        sm_count=device.sm_count,
        system=name,
        machine=machine,
    )
