# SPDX-License-Identifier: Apache-2.0
"""Policies that can be compressed: one adapter per family behind `base.VlaModel`."""
