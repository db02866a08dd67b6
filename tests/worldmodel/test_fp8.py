"""8-bit weights and inputs: what is lost, and what a device without them is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.worldmodel import tiny_wan
from worldmodel.compiled import compile_function
from worldmodel.eight_bits import FLOAT8, LARGEST, to_float8
from worldmodel.fp8 import Fp8Linear, check_fp8, quantise, use_fp8
from worldmodel.runtime import prepare


def test_rows_of_weights_are_scaled_to_fill_the_range_and_keep_three_bits() -> None:
    torch.manual_seed(2)
    weight = torch.randn(16, 64) * torch.logspace(-4, 4, 16)[:, None]
    quantised, scale = quantise(weight)
    assert quantised.dtype == FLOAT8 and scale.shape == (16,)
    assert torch.allclose(quantised.float().abs().amax(-1), torch.tensor(LARGEST))
    restored = quantised.float() * scale[:, None]
    assert float(((restored - weight).norm(dim=-1) / weight.norm(dim=-1)).max()) < 0.035


def test_inputs_keep_three_bits_within_the_range_and_stop_at_its_ends() -> None:
    x = torch.cat([torch.logspace(-6, 8.8, 500, base=2.0), torch.tensor([449.0, 1e6])])
    rounded = to_float8(torch.cat([x, -x])).float()
    ends = torch.cat([x, -x]).clamp(-LARGEST, LARGEST)
    assert float(((rounded - ends) / ends).abs().max()) <= 2**-4
    small = to_float8(torch.linspace(0.0, 2**-6, 100)).float()
    assert float((small - torch.linspace(0.0, 2**-6, 100)).abs().max()) <= 2**-10


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_a_layer_in_8_bits_is_within_five_per_cent_of_the_layer(bias: bool, size: float) -> None:
    torch.manual_seed(3)
    layer, x = nn.Linear(256, 96, bias=bias), size * torch.randn(2, 3, 40, 256)
    with torch.inference_mode():
        wanted, found = layer(x), Fp8Linear(layer.weight, layer.bias)(x)
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


def test_a_layer_compiles_whole_and_stays_itself() -> None:
    torch.manual_seed(4)
    layer, x = nn.Linear(64, 32), torch.randn(1, 20, 64)
    eight = Fp8Linear(layer.weight, layer.bias)
    with torch.inference_mode():
        torch.testing.assert_close(compile_function(eight.forward, "aot_eager")(x), eight(x))


def test_a_row_of_zeros_stays_zero() -> None:
    quantised, scale = quantise(torch.zeros(1, 8))
    assert not (quantised.float() * scale).any()


def test_a_device_without_8_bit_products_says_so() -> None:
    with pytest.raises(ValueError, match="fp8 needs an NVIDIA GPU"):
        check_fp8(torch.device("cpu"))


def test_a_network_that_is_in_8_bits_already_stays_as_it_is() -> None:
    network = tiny_wan.transformer()
    use_fp8(network)
    parts = [module for module in network.modules() if isinstance(module, Fp8Linear)]
    use_fp8(network)
    assert parts and parts == [m for m in network.modules() if isinstance(m, Fp8Linear)]


def test_preparing_a_network_again_leaves_its_8_bit_layers_in_8_bits() -> None:
    network = tiny_wan.transformer()
    use_fp8(network)
    prepare(network, torch.device("cpu"), torch.bfloat16)  # as a second session does
    layers = [module for module in network.modules() if isinstance(module, Fp8Linear)]
    assert layers
    assert {layer.quantised.dtype for layer in layers} == {FLOAT8}
    assert {layer.scale.dtype for layer in layers} == {torch.float32}
