"""Products with frozen weights on CPUs in bfloat16: weights laid out once, bias and GELU inside the product.

`F.linear` lays the weights out anew in every call, and bias and GELU are passes of their own over memory. Here they
come before the product is rounded, so the result is also nearer to the exact one. These are the operators that
`torch.compile` emits; where they are missing, `F.linear` runs.
"""

import os
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IS_AVAILABLE: bool = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]

# oneDNN keeps about 3 MB of code for each number of rows that it meets, by default for the last 1,024: reviews of many
# lengths would take 3 GB. A batch needs a few for each core. Read at the first product of a process
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(16 * (os.cpu_count() or 1)))

Version = list[tuple[int, int]]  # where each weight lies, and how often it was changed
_packed: WeakKeyDictionary[nn.Module, tuple[Version, Tensor, Tensor]] = WeakKeyDictionary()


def linear(layer: nn.Linear, inputs: Tensor, *, gelu: bool = False) -> Tensor:
    """Map inputs [..., I] to W x + b, [..., O], or to its GELU (erf)."""
    if not _can_pack(layer, inputs):
        return F.gelu(layer(inputs)) if gelu else layer(inputs)
    weight, bias = _pack([layer])
    name, variant = ("gelu", "none") if gelu else ("none", "")
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, name, [], variant)
    return result


def linear_each(layers: Sequence[nn.Linear], inputs: Tensor) -> Sequence[Tensor]:
    """Map inputs [..., I] to W x + b of each layer: one product for all of them."""
    if not all(_can_pack(layer, inputs) for layer in layers):
        return [layer(inputs) for layer in layers]
    weight, bias = _pack(layers)
    product = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return torch.split(product, [layer.out_features for layer in layers], dim=-1)


def _can_pack(layer: nn.Linear, inputs: Tensor) -> bool:
    is_frozen = not (layer.weight.requires_grad or (inputs.requires_grad and torch.is_grad_enabled()))
    is_bf16 = inputs.dtype == layer.weight.dtype == torch.bfloat16
    return IS_AVAILABLE and is_frozen and is_bf16 and inputs.device.type == "cpu"


def _pack(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    version = [(layer.weight.data_ptr(), layer.weight._version + layer.bias._version) for layer in layers]
    found = _packed.get(layers[0])
    if found is None or found[0] != version:
        with torch.no_grad():
            weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
            found = _packed[layers[0]] = (version, torch.ops.mkldnn._reorder_linear_weight(weight), bias)
    return found[1:]
