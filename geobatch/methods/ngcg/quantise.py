"""Weights in 8 bits: torchao's, one scale an output channel, in place.

Not covered: 4 bits, embeddings, convolutions.
"""

from __future__ import annotations

from torch import nn

from geobatch.errors import UserError


def quantise(network: nn.Module) -> int:
    """Holds the linear layers of `network` in 8 bits, in place; returns how many.

    Symmetric, one scale an output channel; layers that are not a multiple of 8 wide stay as they are.

    Raises:
        UserError: torchao is not installed, or the network has no such layer.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(f"8-bit weights need torchao ({error}); install it, or serve without --serving.quantise") from None
    found = [name for name, module in network.named_modules() if _linear(module, name)]
    if not found:
        raise UserError("this model has no linear layers to hold in 8 bits; serve it without --serving.quantise")
    quantize_(network, Int8WeightOnlyConfig(set_inductor_config=False), filter_fn=_linear)
    return len(found)


def _linear(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and "lm_head" not in name and not (module.in_features % 8 or module.out_features % 8)
