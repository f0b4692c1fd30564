# SPDX-License-Identifier: Apache-2.0
"""The narrow waist: what an artifact directory is. Owned by the reader; `compress` imports it to write.

`conventions` names the choices, `spec` and `action` describe observation and action, `normalization` their numbers,
`graph` the tensors of the policy graph, `manifest` ties all of it to file digests, and `artifact` writes, reads and
verifies the directory. `chunk` is what a policy answers. Nothing is imported here on purpose.
"""
