# SPDX-License-Identifier: Apache-2.0
"""From torch to an artifact: `onnx_export` makes the graph, `parity` proves it, `draft` assembles, `bench` times it."""
