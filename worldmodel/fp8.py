"""Linear layers in 8-bit floats: weights quantised once by output channel, inputs by token as they come.

    x W^T  ~  s_x s_w (q_x q_w^T)        q = x / s in float8_e4m3fn,  s = max|x| / 448 of each row

The product is taken by the tensor cores of Hopper and newer (`torch._scaled_mm`), summed in float32.
Optional: it changes outputs by a few per cent (`python -m worldmodel bench --fp8` prints by how much).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.compiled import JoinedProjections
from worldmodel.transformer import Block
from worldmodel.wan import WanBlock

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
SMALLEST_SCALE = 1e-12  # of a row of zeros
LAYERS = ("o", "text_q", "text_o", "up", "down")  # of a block; queries, keys and values are joined


class Fp8Linear(nn.Module):
    """A linear layer with one scale for each row of its weights and of its input.

    It stays on the device it was made on, in its precision: its weights are no parameters, so another
    session that prepares the same network with `.to()` does not turn them into something else.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight` [n m], its sizes multiples of 16 as the product asks."""
        super().__init__()
        self.quantised, scale = quantise(weight.detach())
        self.scale = scale.t().contiguous()
        self.bias = None if bias is None else nn.Parameter(bias.detach(), False)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        quantised, scale = quantise(rows)
        out = torch._scaled_mm(
            quantised,
            self.quantised.t(),
            scale_a=scale,
            scale_b=self.scale,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        out = out.unflatten(0, x.shape[:-1]).to(x.dtype)
        return out if self.bias is None else out + self.bias


class Fp8Projections(nn.Module):
    """`JoinedProjections` in 8 bits."""

    def __init__(self, joined: JoinedProjections) -> None:
        super().__init__()
        self.sizes = joined.sizes
        self.linear = Fp8Linear(joined.weight, joined.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.linear(x).split(self.sizes, dim=-1)


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [r m] as float8 and what each was divided by, float32 [r 1]."""
    values = x.float()
    scale = (values.abs().amax(-1, keepdim=True) / LARGEST).clamp_min(SMALLEST_SCALE)
    return (values / scale).clamp(-LARGEST, LARGEST).to(FLOAT8), scale


def use_fp8(network: nn.Module) -> None:
    """Replace the linear layers of every block, in place; after `join_projections`."""
    for module in network.modules():
        if not isinstance(module, Block | WanBlock):
            continue
        for name in LAYERS:
            layer = module._modules.get(name)
            if isinstance(layer, nn.Linear):
                setattr(module, name, Fp8Linear(layer.weight, layer.bias))
        joined = module.__dict__["project"]
        if isinstance(joined, Fp8Projections):  # of a session before, with the same network
            continue
        assert isinstance(joined, JoinedProjections), "projections are joined first"
        module.__dict__["project"] = Fp8Projections(joined)


def check_fp8(device: torch.device) -> None:
    """
    Raises:
        ValueError: if this device has no 8-bit matrix product.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise ValueError("fp8 needs an NVIDIA GPU of compute capability 8.9 or newer")
