# SPDX-License-Identifier: Apache-2.0
"""Robustness axes (after LIBERO-Plus) as perturbations of any LIBERO scene, without further assets."""
