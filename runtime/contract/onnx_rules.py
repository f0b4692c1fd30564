# SPDX-License-Identifier: Apache-2.0
"""Is this graph the one that the manifest describes, and nothing more? Asked of the outline, before an engine starts.

Operators are an allow list: what ONNX defines, less what reads formats of its own (images, text, regular expressions),
makes values that are not tensors, or draws random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from runtime.contract import loading_limits as limits
from runtime.contract.graph import LINEAGE_METADATA, GraphSpec, TensorSpec
from runtime.contract.onnx_outline import GraphValue, OnnxOutline
from runtime.contract.onnx_tensor import ExternalData
from runtime.errors import ContractError

DOMAINS = ("", "ai.onnx")
METADATA_PREFIXES = ("dropgate.", "onnx.")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


REFUSED_OPERATORS = _names(
    """
    Bernoulli ConcatFromSequence ImageDecoder Multinomial Optional OptionalGetElement OptionalHasElement
    RandomNormal RandomNormalLike RandomUniform RandomUniformLike RegexFullMatch SequenceAt SequenceConstruct
    SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap SplitToSequence StringConcat
    StringNormalizer StringSplit TfIdfVectorizer
    """
)
OPERATORS = _names(
    """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike CausalConvWithState
    Ceil Celu CenterCropPad Clip Col2Im Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose
    Cos Cosh CumProd CumSum DFT DeformConv DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear
    Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization
    HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf IsNaN LRN LSTM
    LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log LogSoftmax Loop LpNormalization LpPool
    MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization MelWeightMatrix Min Mish
    Mod Mul Neg NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QLinearConv
    QLinearMatMul QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink
    Sigmoid Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split Sqrt
    Squeeze Sub Sum SwiGLU Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze
    Upsample Where Xor
    """
)


def check_outline(
    outline: OnnxOutline, graph: GraphSpec, opset: int, lineage_id: str, data_files: Mapping[str, int]
) -> None:
    """ContractError unless the outline is a plain graph that fits the manifest.

    Args:
        graph, opset, lineage_id: as the manifest states them.
        data_files: sizes [bytes] of the files that may hold weights (MODEL_DATA), by path in the artifact.
    """
    # engines choose their parser by the name: `.ort` is flatbuffers to ONNX Runtime, `.xml` is OpenVINO's own
    _require(graph.file.endswith(".onnx"), "graph file", graph.file, "a name that ends in .onnx")
    low, high = limits.IR_VERSIONS
    _require(low <= outline.ir_version <= high, "ir_version", outline.ir_version, f"{low} to {high}")
    strange = sorted(set(outline.opsets) - set(DOMAINS))
    _require(not strange, "opset_import", strange, "the standard operators only; remove imports of other domains")
    versions = list(outline.opsets.values())
    _require(versions == [opset], "opset_import", versions, f"opset {opset}, once, as the manifest says")
    low, high = limits.OPSETS
    _require(low <= opset <= high, "opset_import", opset, f"{low} to {high}")
    _check_operators(outline)
    foreign = sorted(key for key in outline.metadata if not key.startswith(METADATA_PREFIXES))
    _require(not foreign, "metadata_props", foreign, f"keys that begin with {' or '.join(METADATA_PREFIXES)}")
    claimed = outline.metadata.get(LINEAGE_METADATA, lineage_id)
    _require(claimed == lineage_id, f"metadata_props[{LINEAGE_METADATA}]", claimed, f"{lineage_id}, the manifest's")
    _check_values(outline.inputs, graph.inputs, "inputs")
    _check_values(outline.outputs, graph.outputs, "outputs")
    size = sum(8 * math.prod(spec.shape) for spec in (*graph.inputs, *graph.outputs))
    _require(size <= limits.GRAPH_IO_BYTES, "inputs and outputs", size, f"at most {limits.GRAPH_IO_BYTES} bytes")
    _check_external(outline.external, graph.file, data_files)


def _check_operators(outline: OnnxOutline) -> None:
    for domain, operator in sorted(outline.operators):
        label = f"{domain}::{operator}" if domain else operator
        _require(domain in DOMAINS, "operator", label, "operators of the standard domain; custom ones run foreign code")
        _require(operator not in REFUSED_OPERATORS, "operator", label, "operators on plain tensors, without chance")
        _require(operator in OPERATORS, "operator", label, "an operator that ONNX defines")


def _check_values(found: Sequence[GraphValue], expected: Sequence[TensorSpec], where: str) -> None:
    names = sorted(value.name for value in found)
    _require(names == sorted(spec.name for spec in expected), where, names, str([spec.name for spec in expected]))
    by_name = {value.name: value for value in found}
    for spec in expected:
        value = by_name[spec.name]
        fits = len(value.shape) == len(spec.shape) and all(
            not isinstance(size, int) or size == wanted for size, wanted in zip(value.shape, spec.shape, strict=True)
        )
        found_text = f"{value.dtype} {value.shape}"
        _require(
            fits and value.dtype == spec.dtype.value,
            f"{where}[{spec.name}]",
            found_text,
            f"{spec.dtype.value} {spec.shape}, as the manifest says",
        )


def _check_external(external: Sequence[ExternalData], file: str, data_files: Mapping[str, int]) -> None:
    """Every range lies in a listed file beside the graph; two ranges are the same or do not touch each other."""
    folder = file.rpartition("/")[0]
    beside = {path.rpartition("/")[2]: size for path, size in data_files.items() if path.rpartition("/")[0] == folder}
    for entry in external:
        where = f"tensor {entry.tensor!r}.external_data"
        _require(entry.location in beside, where, entry.location, f"one of the listed weight files {sorted(beside)}")
        size = beside[entry.location]
        _require(
            entry.offset + entry.length <= size,
            where,
            f"bytes {entry.offset} to {entry.offset + entry.length}",
            f"a range inside {entry.location}, which has {size} bytes",
        )
    ranges = sorted({(e.location, e.offset, e.length) for e in external if e.length})
    for (file_a, offset_a, length_a), (file_b, offset_b, length_b) in pairwise(ranges):
        apart = file_a != file_b or offset_a + length_a <= offset_b
        found = f"bytes {offset_a}+{length_a} and {offset_b}+{length_b} of {file_a}"
        _require(apart, "external_data", found, "ranges that are the same or do not overlap")


def _require(condition: bool, where: str, found: object, expected: str) -> None:
    if not condition:
        raise ContractError(f"{where}: found {found!r}, expected {expected}")
