"""A model that does not fit says so, and what would."""

from __future__ import annotations

import pytest
import torch

from tests.worldmodel import tiny_wan
from worldmodel import config as strict
from worldmodel.kv_cache import CacheConfig
from worldmodel.memory import GIB, check_memory
from worldmodel.models import WanModelConfig
from worldmodel.wan import WanTransformer


def _check(free_gib: float, camera: bool, window: int = 20) -> None:
    name = f"wan2.1-1.3b{'-camera' * camera}.yaml"
    config = strict.load(tiny_wan.NANO.with_name(name), WanModelConfig).transformer
    with torch.device("meta"):
        network = WanTransformer(config)
    cache = CacheConfig(sink_frames=0, window_frames=window)
    free = int(free_gib * GIB)
    check_memory([network], config, cache, 1, torch.bfloat16, free)


def test_wan_with_a_camera_branch_and_21_latents_fits_into_what_it_needs() -> None:
    _check(17.0, camera=True)
    _check(12.0, camera=False)


def test_a_model_that_does_not_fit_names_the_window_that_would() -> None:
    # 1.42e9 weights of 2 bytes; 30 layers x 1560 tokens x 1536 x 2 x 2 bytes for every latent
    expected = (
        r"needed \(2\.6 for weights, 5\.6 for keys and values of 21 latent frames\), 6\.0 GiB"
    )
    with pytest.raises(ValueError, match=expected) as caught:
        _check(6.0, camera=False)
    window = int(str(caught.value).split("window_frames ")[1].split()[0])
    _check(6.0, camera=False, window=window)
    with pytest.raises(ValueError, match="would fit"):
        _check(6.0, camera=False, window=window + 1)


def test_a_gpu_too_small_for_the_weights_leaves_the_cpu() -> None:
    with pytest.raises(ValueError, match="no window of this model fits: try --device cpu"):
        _check(2.0, camera=True)
