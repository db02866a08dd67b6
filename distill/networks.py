"""The transformers that are trained. Both classes are called alike, so objectives know only one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from worldmodel.attention import Attend
from worldmodel.transformer import Geometry, Places, TransformerConfig, WorldTransformer
from worldmodel.wan import WanBlock, WanConfig, WanPlaces, WanTransformer


class StudentBlock(WanBlock):
    """Makes the keys and values of the prompt [b s m] itself."""

    def forward(
        self, x: Tensor, shared: Tensor, text: Tensor, places: Places, attend: Attend
    ) -> Tensor:
        return super().forward(x, shared, self.text_keys_values(text), places, attend)


class WanStudent(WanTransformer):
    """Wan's transformer as training calls it: prompts are rows [b s*e], places are geometry.

    All weights are used inside the `forward` of the network or of their block: that is where sharding
    gathers them and where gradients are exchanged. Weights and their names are those of the player's.
    """

    block_type: ClassVar[type[WanBlock]] = StudentBlock

    def places(self, geometry: Geometry) -> Places:
        return geometry

    def forward(
        self,
        latents: Tensor,
        sigma: Tensor,
        words: Tensor,
        places: Places,
        attend: Sequence[Attend],
    ) -> Tensor:
        text, where = self._text(words), self._where(places)
        return super().forward(latents, sigma, text, where, attend)

    def last_keys_values(
        self,
        latents: Tensor,
        sigma: Tensor,
        words: Tensor,
        places: Places,
        attend: Sequence[Attend],
    ) -> tuple[Tensor, Tensor]:
        text, where = self._text(words), self._where(places)
        return super().last_keys_values(latents, sigma, text, where, attend)

    def _text(self, words: Tensor) -> Tensor:
        """[b l s m], the same for every block."""
        embeddings = words.unflatten(-1, (self.config.text_tokens, self.config.text_width))
        text = self.embed_prompt(embeddings)
        return text[:, None].expand(-1, self.config.layers, -1, -1)

    def _where(self, places: Places) -> Places:
        assert isinstance(places, Geometry), "training passes geometry"
        return WanPlaces(places, camera=self.config.camera)


Transformer = WorldTransformer | WanStudent


def make_transformer(config: TransformerConfig | WanConfig) -> Transformer:
    """With random weights, on the default device."""
    return WanStudent(config) if isinstance(config, WanConfig) else WorldTransformer(config)


def device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
