# SPDX-License-Identifier: Apache-2.0
"""Why an export was refused. Leaf module: importing it does not import torch."""

from __future__ import annotations


class ExportError(RuntimeError):
    """The model cannot become a portable graph; the message names the operator, tensor or stage."""


class ParityError(ExportError):
    """The graph does not compute what the model computes; nothing was written."""


class ConvertError(ExportError):
    """TensorRT does not take the graph; the message names the node."""
