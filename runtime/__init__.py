# SPDX-License-Identifier: Apache-2.0
"""Policy runtime of DropGate: what runs on the robot. numpy and the standard library; no torch, no ROS.

In order of use: `runtime.contract` says what an artifact directory is and verifies it, `runtime.backends` runs its
graph,
`runtime.inference.policy.Policy` turns an observation into an `ActionChunk`. Nothing is imported here on purpose: each
heavy library (onnxruntime, tokenizers, safetensors) is paid for only by the one file that wraps it.
"""
