"""Compiled regions: pure tensor methods of networks, replaced from outside by what a compiler makes.

A region is a method between two attention calls, so it knows no layer, no cache and no length of memory:
one compiled function serves all layers and all lengths. Networks stay plain and never ask.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldmodel.autoencoder import Autoencoder
from worldmodel.tiny_decoder import TinyDecoder
from worldmodel.transformer import Block, WorldTransformer
from worldmodel.upscaler import UpscaledAutoencoder
from worldmodel.wan import WanBlock, WanTransformer

REGIONS: dict[type[nn.Module], tuple[str, ...]] = {
    Block: ("enter", "leave", "keys_values"),
    WanBlock: ("enter", "leave", "keys_values"),
    WorldTransformer: ("embed", "head"),
    WanTransformer: ("embed", "head"),
    Autoencoder: ("render",),
    UpscaledAutoencoder: ("render",),
    TinyDecoder: ("render",),
}
MOST_VERSIONS = 64  # of one region in a process: one for each model that it ever plays


def can_compile(device: torch.device) -> str | None:
    """None, or why what is made for this device cannot be compiled."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    return None


def compile_function(function: Callable[..., Any], backend: str = "inductor") -> Callable[..., Any]:
    """Compile as a whole, for the shapes it is called with; compiling happens at the first call."""
    limits = {"recompile_limit": MOST_VERSIONS, "accumulated_recompile_limit": 8 * MOST_VERSIONS}
    compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=backend)

    def call(*inputs: Any) -> Any:
        with torch._dynamo.config.patch(limits):
            return compiled(*inputs)

    return call


def compile_regions(network: nn.Module, backend: str = "inductor") -> None:
    """Replace the methods of `REGIONS` in a network and its parts, in place.

    All instances of a class share what is compiled for it.
    """
    for cls, names in REGIONS.items():
        instances = [module for module in network.modules() if isinstance(module, cls)]
        for name in names if instances else ():
            compiled = compile_function(getattr(cls, name), backend)
            for module in instances:
                module.__dict__[name] = partial(compiled, module)
    if isinstance(network, WorldTransformer):  # the compiler fuses the maths as it is written
        network.__dict__["places"] = _as_written


class JoinedProjections(nn.Module):
    """Several linear layers of one input as one matrix product; the same numbers."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        """The layers keep working: their weights become views of the joined one."""
        super().__init__()
        self.sizes = [layer.out_features for layer in layers]
        weights: list[Tensor] = [layer.weight for layer in layers]
        self.weight = nn.Parameter(torch.cat(weights), False)
        biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        assert len(biases) in (0, len(layers)), "all layers have a bias, or none"
        self.bias = nn.Parameter(torch.cat(biases), False) if biases else None
        for layer, weight in zip(layers, self.weight.split(self.sizes), strict=True):
            layer.weight = nn.Parameter(weight, False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return functional.linear(x, self.weight, self.bias).split(self.sizes, dim=-1)


def join_projections(network: nn.Module) -> None:
    """Queries, keys and values of every block from one product, in place; for inference."""
    for module in network.modules():
        if isinstance(module, Block | WanBlock) and "project" not in module.__dict__:
            module.__dict__["project"] = JoinedProjections([module.q, module.k, module.v])


def _as_written(geometry: Any) -> Any:
    return geometry
