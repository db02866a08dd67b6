"""Compiled regions compute what the plain code computes, and one compiled block serves all layers."""

from __future__ import annotations

import torch
from torch._dynamo.utils import counters

from tests.worldmodel import tiny, tiny_wan
from worldmodel.compiled import compile_regions, join_projections
from worldmodel.kv_cache import KVCache
from worldmodel.sampler import Decoder, Network, Sampler

REGIONS = {"enter", "leave", "keys_values", "embed", "head"}


def _sampler(network: Network, decoder: Decoder, held: int) -> Sampler:
    config = network.config
    cache = KVCache(
        tiny.CACHE,
        layers=config.layers,
        batch=1,
        kv_heads=config.kv_heads,
        tokens_per_frame=config.tokens_per_frame,
        head_width=config.head_width,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    return Sampler(network, decoder, cache, held=held)


@torch.inference_mode()
def _frames(network: Network, decoder: Decoder, words: torch.Tensor) -> list[torch.Tensor]:
    """What two frames after another give: denoised, committed and decoded."""
    made = []
    cache = None
    for held in range(2):
        sampler = _sampler(network, decoder, held)
        if cache is not None:
            sampler.cache.load_state(cache)
        config = network.config
        random = torch.Generator().manual_seed(held)
        latent = torch.randn(
            1, 1, config.tokens_per_frame, config.latent_channels, generator=random
        )
        pose = torch.eye(4, dtype=torch.float64)[None, None].clone()
        pose[..., 0, 3] = 0.3 * held
        lens = torch.tensor([[[0.6, 1.0, 0.5, 0.5]]])
        places = network.geometry(pose, lens, torch.tensor([[float(held)]])).tensors()
        level, zero = torch.ones(1, 1), torch.zeros(1, 1)
        latent = sampler.denoise(latent, level, zero, words, *places)
        sampler.commit(latent, zero, torch.tensor([held]), words, *places)
        cache = sampler.cache.state()
        made += [latent.clone(), cache["keys"].clone(), sampler.decode(latent)]
    return made


def _compiled_equals_plain(network: Network, decoder: Decoder, words: torch.Tensor) -> None:
    decoder.reset()
    plain = _frames(network, decoder, words)
    decoder.reset()
    torch._dynamo.reset()
    counters.clear()
    for part in (network, decoder):
        assert isinstance(part, torch.nn.Module)
        join_projections(part)
        compile_regions(part, "aot_eager")
    compiled = _frames(network, decoder, words)
    for ours, theirs in zip(compiled, plain, strict=True):
        if ours.dtype == torch.uint8:
            assert int((ours.int() - theirs.int()).abs().max()) <= 1
        else:
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    # one of each, whatever the layers and frames in memory, and one of the decoder
    assert counters["stats"]["unique_graphs"] == len(REGIONS) + 1
    assert not counters["graph_break"]


def test_one_compiled_block_serves_all_layers_of_the_world_transformer() -> None:
    words = torch.zeros(1, 1)
    _compiled_equals_plain(tiny.transformer(), tiny.autoencoder(), words)


def test_one_compiled_block_serves_all_layers_of_wan() -> None:
    config = tiny_wan.model_config().transformer
    network = tiny_wan.transformer(config)
    with torch.inference_mode():
        words = network.condition(tiny_wan.prompt(config))
    _compiled_equals_plain(network, tiny_wan.decoder(), words)
