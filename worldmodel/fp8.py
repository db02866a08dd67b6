"""Linear layers in 8-bit floats: weights rounded once, scaled by output channel, inputs as they come.

    x W^T  ~  (q_x q_w^T) s_w        q_w = W / s_w,  s_w = max|w| / 448 of each row w;  q_x = x

all q in float8_e4m3fn. The product is taken by the tensor cores of Hopper and newer
(`torch._scaled_mm`), summed in float32. The rest is elementwise: a compiler joins it to what comes
before and after. Scales of inputs would need the largest value of each row first, a kernel of its own
before every product, which costs what the product gains.

Optional: it changes outputs by a few per cent (`python -m worldmodel bench --fp8` prints by how much,
`python -m distill margins --fp8` what that means to a student's frames).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.compiled import JoinedProjections, join_projections
from worldmodel.eight_bits import LARGEST, to_float8
from worldmodel.transformer import Block
from worldmodel.wan import WanBlock

SMALLEST_SCALE = 1e-12  # of a row of zeros
# of a block; queries, keys and values are joined
LAYERS = ("o", "camera_o", "text_q", "text_o", "up", "down")


class Fp8Linear(nn.Module):
    """A linear layer with one scale for each row of its weights, and none for its input.

    It is for inputs of normalised networks, which are around 1: e4m3 keeps three bits of the mantissa
    from 2^-6 to 448. What is smaller keeps steps of 2^-9, so inputs that are all below it would be lost;
    what is larger becomes +-448.

    It stays on the device it was made on, in its precision: its weights are no parameters, so another
    session that prepares the same network with `.to()` does not turn them into something else.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight` [n m], its sizes multiples of 16 as the product asks."""
        super().__init__()
        self.quantised, self.scale = quantise(weight.detach())
        self.one = torch.ones((), device=weight.device)  # the product asks for scales
        self.bias = None if bias is None else nn.Parameter(bias.detach(), False)

    def forward(self, x: Tensor) -> Tensor:
        out = torch._scaled_mm(
            to_float8(x.flatten(0, -2)),
            self.quantised.t(),
            scale_a=self.one,
            scale_b=self.one,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        scaled = out.unflatten(0, x.shape[:-1]).float() * self.scale
        return (scaled if self.bias is None else scaled + self.bias.float()).to(x.dtype)


class Fp8Projections(nn.Module):
    """`JoinedProjections` in 8 bits."""

    def __init__(self, joined: JoinedProjections) -> None:
        super().__init__()
        self.sizes = joined.sizes
        self.linear = Fp8Linear(joined.weight, joined.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.linear(x).split(self.sizes, dim=-1)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of [n m] as float8, and what each was divided by: float32 [n]."""
    rows = weight.float()
    scale = (rows.abs().amax(-1) / LARGEST).clamp_min(SMALLEST_SCALE)
    return to_float8(rows / scale[:, None]), scale


def use_fp8(network: nn.Module) -> None:
    """Replace the linear layers of every block, in place, for inference."""
    join_projections(network)
    for module in network.modules():
        if not isinstance(module, Block | WanBlock):
            continue
        for name in LAYERS:
            layer = module._modules.get(name)
            if isinstance(layer, nn.Linear):
                setattr(module, name, Fp8Linear(layer.weight, layer.bias))
        joined = module.__dict__["project"]  # of a session before, with the same network: in 8 bits
        if isinstance(joined, JoinedProjections):
            module.__dict__["project"] = Fp8Projections(joined)


def check_fp8(device: torch.device) -> None:
    """
    Raises:
        ValueError: if this device has no 8-bit matrix product.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise ValueError("fp8 needs an NVIDIA GPU of compute capability 8.9 or newer")
