"""8-bit weights and inputs: what is lost, and what a device without them is told."""

from __future__ import annotations

import pytest
import torch

from tests.worldmodel import tiny_wan
from worldmodel.compiled import join_projections
from worldmodel.fp8 import FLOAT8, LARGEST, Fp8Linear, check_fp8, quantise, use_fp8
from worldmodel.runtime import prepare


def test_rows_are_scaled_to_fill_the_range_and_keep_three_bits() -> None:
    torch.manual_seed(2)
    x = torch.randn(16, 64) * torch.logspace(-4, 4, 16)[:, None]
    quantised, scale = quantise(x)
    assert quantised.dtype == FLOAT8 and scale.shape == (16, 1)
    assert torch.allclose(quantised.float().abs().amax(-1), torch.tensor(LARGEST))
    restored = quantised.float() * scale
    assert float(((restored - x).norm(dim=-1) / x.norm(dim=-1)).max()) < 0.035


def test_a_product_of_quantised_rows_is_within_four_per_cent() -> None:
    torch.manual_seed(3)
    x, weight = torch.randn(40, 256), torch.randn(96, 256)
    (qx, sx), (qw, sw) = quantise(x), quantise(weight)
    found, wanted = (qx.float() @ qw.float().t()) * sx * sw.t(), x @ weight.t()
    assert float((found - wanted).norm() / wanted.norm()) < 0.04


def test_a_row_of_zeros_stays_zero() -> None:
    quantised, scale = quantise(torch.zeros(1, 8))
    assert not (quantised.float() * scale).any()


def test_a_device_without_8_bit_products_says_so() -> None:
    with pytest.raises(ValueError, match="fp8 needs an NVIDIA GPU"):
        check_fp8(torch.device("cpu"))


def test_a_network_that_is_in_8_bits_already_stays_as_it_is() -> None:
    network = tiny_wan.transformer()
    join_projections(network)
    use_fp8(network)
    parts = [module for module in network.modules() if isinstance(module, Fp8Linear)]
    use_fp8(network)
    assert parts and parts == [m for m in network.modules() if isinstance(m, Fp8Linear)]


def test_preparing_a_network_again_leaves_its_8_bit_layers_in_8_bits() -> None:
    network = tiny_wan.transformer()
    join_projections(network)
    use_fp8(network)
    prepare(network, torch.device("cpu"), torch.bfloat16)  # as a second session does
    layers = [module for module in network.modules() if isinstance(module, Fp8Linear)]
    assert layers
    assert {layer.quantised.dtype for layer in layers} == {FLOAT8}
    assert {layer.scale.dtype for layer in layers} == {torch.float32}
