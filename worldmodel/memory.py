"""Does a model fit into a GPU? Said before anything is moved there, with what would fit."""

from __future__ import annotations

import torch
from torch import nn

from worldmodel.kv_cache import CacheConfig
from worldmodel.sampler import NetworkConfig

GIB = 2**30
WORKING_SHARE = 0.15  # of weights and memory together, for what passes through the layers


def check_memory(
    networks: list[nn.Module],
    config: NetworkConfig,
    cache: CacheConfig,
    block_frames: int,
    dtype: torch.dtype,
    free_bytes: int,
    *,
    eight_bits: bool = False,
) -> None:
    """`eight_bits`: keys and values are kept in 8 bits as well.

    Raises:
        ValueError: with what is needed, what there is, and the longest window that fits.
    """
    parameters = [p for network in networks for p in network.parameters()]
    missing = sum(p.numel() for p in parameters if p.device.type != "cuda")  # not there already
    weights = missing * dtype.itemsize
    frame = 2 * config.layers * config.kv_heads * config.tokens_per_frame * config.head_width
    frame *= dtype.itemsize + eight_bits
    memory = frame * (cache.slots + block_frames)
    needed = (weights + memory) * (1 + WORKING_SHARE)
    if needed <= free_bytes:
        return
    left = free_bytes / (1 + WORKING_SHARE) - weights
    window = int(left // frame) - cache.sink_frames - block_frames
    if window >= block_frames:
        advice = f"cache.window_frames {window} in model.yaml would fit"
    else:
        advice = "no window of this model fits: try --device cpu"
    raise ValueError(
        f"not enough GPU memory: {needed / GIB:.1f} GiB are needed ({weights / GIB:.1f} for weights,"
        f" {memory / GIB:.1f} for keys and values of {cache.slots + block_frames} latent frames),"
        f" {free_bytes / GIB:.1f} GiB are free; {advice}"
    )
