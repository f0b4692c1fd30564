# SPDX-License-Identifier: Apache-2.0
"""From observation to action: `preprocess` and `tokenizer` make tensors, `policy` assembles, `golden` proves,
`bench` times."""
