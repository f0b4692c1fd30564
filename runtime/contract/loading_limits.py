# SPDX-License-Identifier: Apache-2.0
"""How large and how deep anything may be that a robot loads: every bound in one place, checked before a byte is parsed.

The bounds are several times what the largest supported policies need (a 7 B graph with its weights beside it is 6 MB
of graph, 14 GB of data, 34 MB of tokenizer); a file beyond them is refused, not read.
"""

from __future__ import annotations

from runtime.contract.conventions import FileRole

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# the directory
DIRECTORY_ENTRIES = 10_000  # files, folders and the rest together
DIRECTORY_DEPTH = 16  # folders inside folders
MANIFEST_BYTES = 4 * MIB
FILE_BYTES: dict[FileRole, int] = {
    FileRole.MODEL: 256 * MIB,
    FileRole.MODEL_DATA: 64 * GIB,
    FileRole.TOKENIZER: 64 * MIB,
    FileRole.NORMALIZATION: 4 * MIB,
    FileRole.GOLDEN: GIB,
    FileRole.RECIPE: 16 * MIB,
    FileRole.EVIDENCE: GIB,
    FileRole.REPORT: 256 * MIB,
    FileRole.BOM: 64 * MIB,
}

# signatures and the station's trust store
ENVELOPE_BYTES = 256 * KIB  # one signature with what it says
SIGNED_TASKS = 1024
SIGNED_TEXT = 256  # characters of a name
TRUST_BYTES = MIB
TRUST_ENTRIES = 4096  # keys, or revoked things of one kind

# JSON
JSON_BYTES = 64 * MIB
JSON_DEPTH = 64  # brackets inside brackets
JSON_DIGITS = 1024  # of one whole number; reading it takes the square of its length

# safetensors
TENSORS_HEADER_BYTES = MIB
TENSORS_COUNT = 1024

# the graph
GRAPH_FIELDS = 5_000_000  # protobuf fields: 5 s of reading; a traced policy of 5000 nodes has 121 000
GRAPH_DEPTH = 8  # graphs inside graphs (Loop, If)
GRAPH_NODES = 100_000  # with those of inner graphs
GRAPH_TENSORS = 100_000  # weights and constants
GRAPH_TEXT_BYTES = 64 * KIB  # one name, attribute text or note
GRAPH_OUTPUTS = 4096  # per node, and graph inputs and outputs
TENSOR_AXES = 8  # TensorRT takes no more
TENSOR_BYTES = 16 * GIB  # one weight
GRAPH_IO_BYTES = 256 * MIB  # of all inputs and outputs of the graph
LOOP_TRIPS = 1024  # rounds of one Loop, a number written in the graph
METADATA_ENTRIES = 64
IR_VERSIONS = (7, 13)
OPSETS = (13, 26)  # of the standard operators

# what is asked of a loaded policy
INSTRUCTION_CHARACTERS = 4096
