"""Who knows true clips of latents, and says where those of a student differ: a third role of stage 3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldmodel.attention import attend_all
from worldmodel.transformer import Geometry, WorldTransformer


class Discriminator(nn.Module):
    """How true every place of a clip looks, by what a teacher sees in it after each of its blocks.

    Scores say how likely a clip is, and likely ones are plain. Who compares with true clips sees that
    less stands about in them. A teacher has learned what belongs together in a place that cameras walk
    through, so these heads have little left to learn. Nothing moves the teacher: a student cannot win
    by what it forgets. Sources: Yin et al., arXiv 2405.14867 (DMD2), section 4.3; Sauer et al., arXiv
    2403.12015 (LADD), section 3, for the features of a frozen teacher.
    """

    def __init__(self, blocks: int, features: int, width: int) -> None:
        """Of a teacher with as many `blocks` that are `features` wide."""
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(features, width) for _ in range(blocks))
        self.last = nn.ModuleList(nn.Linear(width, 1) for _ in range(blocks))

    def forward(self, *seen: Tensor) -> Tensor:
        """Opinions [b f p] of what each block made of a clip, [b f p m] each: more is truer."""
        opinions = []
        for x, first, last in zip(seen, self.first, self.last, strict=True):
            plain = functional.layer_norm(x, x.shape[-1:])
            opinions.append(last(functional.silu(first(plain)))[..., 0].float())
        return torch.stack(opinions).mean(0)

    def parameters_for_muon(self) -> list[nn.Parameter]:
        """The matrices that read features."""
        return [p for p in self.first.parameters() if p.ndim == 2]


def seen_by(
    teacher: WorldTransformer, noisy: Tensor, sigma: Tensor, words: Tensor, geometry: Geometry
) -> Sequence[Tensor]:
    """What each block of a bidirectional teacher makes of clips [b f p c], [b f p m] each."""
    x, _, shared = teacher.embed(noisy, sigma, words)
    seen = []
    for block in teacher.blocks:
        x = block(x, shared, geometry, attend_all)
        seen.append(x)
    return seen
