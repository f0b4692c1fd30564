# SPDX-License-Identifier: Apache-2.0
"""The embedded suite `dropgate_tabletop`: two cubes, two trays, four sentences, one scene; no LIBERO assets needed.

All four tasks start from the same distribution of scenes, so only the sentence says what to do. It runs in LIBERO's
engine (`BDDLBaseDomain`, BDDL goals, `In` predicate, OSC_POSE at 20 Hz) from PyPI packages alone.
"""
