# SPDX-License-Identifier: Apache-2.0
"""Inference engines behind one small protocol (`base.Backend`).

Adding one: a new `<name>_backend.py` and a line in `registry`.
"""
