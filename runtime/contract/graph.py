# SPDX-License-Identifier: Apache-2.0
"""Names, types and shapes of the policy graph's tensors: the one place that exporter and runtime both read.

Inputs are normalised already: `pixels` (1, n_cam, 3, H, W) float32 as `(x / 255 - mean) / std`, cameras in spec order;
`input_ids` and `attention_mask` (1, L) int64; `state` (1, S) float32. Output: `actions` (1, horizon, D) float32.

A graph that can be guided (real-time chunking, arXiv 2506.07339) has two inputs more: `previous_actions`
(1, horizon, D) float32, normalised like `actions`: what the chunk that is being executed says for the same instants;
and `previous_weights` (1, horizon) float32: 1 for rows that cannot be changed any more, 0 for rows that are free. All
weights zero: the answer is that of a graph without guidance.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.contract import check
from runtime.contract.action import ActionSpec
from runtime.contract.codec import conform
from runtime.contract.conventions import TensorDtype
from runtime.contract.spec import ObservationSpec, PromptSpec

PIXELS = "pixels"
INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
STATE = "state"
ACTIONS = "actions"
PREVIOUS_ACTIONS = "previous_actions"
PREVIOUS_WEIGHTS = "previous_weights"
INPUT_NAMES = (PIXELS, INPUT_IDS, ATTENTION_MASK, STATE)
OUTPUT_NAMES = (ACTIONS,)

MODEL_FILE = "policy.onnx"
NORMALIZATION_FILE = "normalization.safetensors"
GOLDEN_FILE = "golden.safetensors"
GOLDEN_OBSERVATION = "observation."
GOLDEN_ACTIONS = "expected.actions"
GOLDEN_PREVIOUS, GOLDEN_WEIGHTS = "previous.actions", "previous.weights"
LINEAGE_METADATA = "dropgate.lineage_id"


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and fixed shape of one graph input or output. Raises ContractError."""

    name: str
    dtype: TensorDtype
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        conform(self)
        check.identifier(self.name, "TensorSpec.name")
        check.require(
            all(size > 0 for size in self.shape), f"TensorSpec[{self.name}].shape", self.shape, "sizes above zero"
        )


@dataclass(frozen=True)
class GraphSpec:
    """The graph file and its tensors, inputs and outputs in order. Raises ContractError."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        conform(self)
        check.relative_path(self.file, "GraphSpec.file")
        check.unique((tensor.name for tensor in (*self.inputs, *self.outputs)), "GraphSpec tensor names")

    @property
    def guided(self) -> bool:
        """Whether it takes the previous chunk."""
        return any(tensor.name == PREVIOUS_ACTIONS for tensor in self.inputs)


def graph_for(
    observation: ObservationSpec, action: ActionSpec, prompt: PromptSpec, file: str = MODEL_FILE,
    guided: bool = False,
) -> GraphSpec:  # fmt: skip
    """The graph signature that these specs imply, batch 1; `guided`: with the previous chunk."""
    image = observation.images[0]
    pixels = (1, len(observation.images), 3, image.height, image.width)
    tokens = (1, prompt.max_tokens)
    previous = (
        TensorSpec(PREVIOUS_ACTIONS, TensorDtype.FLOAT32, (1, action.horizon, action.dim)),
        TensorSpec(PREVIOUS_WEIGHTS, TensorDtype.FLOAT32, (1, action.horizon)),
    )
    return GraphSpec(
        file=file,
        inputs=(
            TensorSpec(PIXELS, TensorDtype.FLOAT32, pixels),
            TensorSpec(INPUT_IDS, TensorDtype.INT64, tokens),
            TensorSpec(ATTENTION_MASK, TensorDtype.INT64, tokens),
            TensorSpec(STATE, TensorDtype.FLOAT32, (1, observation.state.dim)),
            *(previous if guided else ()),
        ),
        outputs=(TensorSpec(ACTIONS, TensorDtype.FLOAT32, (1, action.horizon, action.dim)),),
    )
