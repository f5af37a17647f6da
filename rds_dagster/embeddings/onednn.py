"""Linear layers of a float32 model on a CPU, through oneDNN instead of the BLAS that torch was built with.

MKL keeps AVX-512 to Intel's processors; oneDNN goes by what the processor can do. One core of an AMD EPYC with AVX-512, products of
(1024, 160) by (160, 480): 96 GFLOPS with MKL, 213 with oneDNN, both exact to float32 (2.9e-5 and 2.4e-5 from float64 in the last states of
``tiny``). With it a vector's last bits no longer depend on who made the processor.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class OneDnnLinear(nn.Module):
    """``linear`` with its weights shared: x (..., I) float32 to (..., O)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight: Tensor = linear.weight
        self.bias: Tensor | None = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """The same as ``nn.Linear``."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return product


def through_onednn(model: Model) -> Model:
    """``model`` with every ``nn.Linear`` replaced in place; as it is where this build of torch has no oneDNN."""
    if not (torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return model
    for name, part in list(model.named_modules()):
        if type(part) is nn.Linear:  # a subclass may do more than multiply
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, OneDnnLinear(part))
    return model
