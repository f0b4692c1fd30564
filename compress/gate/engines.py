# SPDX-License-Identifier: Apache-2.0
"""The engines by name."""

from __future__ import annotations

from compress.gate.engine import EngineFactory, local_engine

ENGINES = ("local", "served", "ray")


def engine_named(name: str) -> EngineFactory:
    """The factory of one of ENGINES. ValueError for another name."""
    if name == "local":
        return local_engine
    if name == "served":
        from compress.gate.served_engine import ServedEngine

        return ServedEngine
    if name == "ray":
        from compress.gate.ray_engine import RayEngine

        return RayEngine
    raise ValueError(f"engine is {name!r}, expected one of {list(ENGINES)}")
