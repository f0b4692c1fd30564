# SPDX-License-Identifier: Apache-2.0
"""DropGate's offline half: probe, drop, recover, export, gate and seal a Vision-Language-Action policy."""
