"""Weights spread over processes (FSDP2): each holds a part of them, and gathers a block to run it.

All that is written is whole, so a checkpoint does not know how many processes made it, and nothing of
it is a pickle, as the metadata of `torch.distributed.checkpoint` are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(network: nn.Module, device: torch.device, processes: int) -> nn.Module:
    """Spread the parameters of a transformer over all processes, in place, block by block.

    Every process passes the same weights. On GPUs blocks are gathered in bfloat16; gradients are
    averaged in float32, and parameters keep their type.
    """
    mesh = init_device_mesh(device.type, (processes,))
    # inputs are not cast: noise levels and poses need float32
    mixed = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    policy = mixed if device.type == "cuda" else MixedPrecisionPolicy(cast_forward_inputs=False)
    blocks: Any = network.blocks
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # also the outermost: what stayed gathered after a pass without gradients would not see updates
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    return network


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; if it is spread, all processes must ask for it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The part that this process holds; changing it changes the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, example: Tensor) -> Tensor:
    """The part of a whole `tensor` that this process keeps of `example`; nothing is sent."""
    if not isinstance(example, DTensor) or tensor.shape != example.shape:
        return tensor
    mesh, placements = example.device_mesh, example.placements
    return distribute_tensor(tensor.to(example.device), mesh, placements, src_data_rank=None)


def load_whole(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """`load_state_dict` of whole weights into a network that may be spread."""
    ours = network.state_dict()
    network.load_state_dict({name: spread_like(w, ours[name]) for name, w in weights.items()})
