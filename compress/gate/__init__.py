# SPDX-License-Identifier: Apache-2.0
"""The simulation gate: is the compressed policy not worse than its baseline by more than a margin fixed beforehand?

`spec` fixes the question, `plan` fixes the order of the answers, an `engine` and `episodes` collect them, `stats`
and `judge` decide, `sim_gate.run_gate` is the whole; `run_shard` and `merge` are the same in parts. Missing evidence is
a hold, never a pass.
"""
