"""Who knows true clips of latents, and says where those of a student differ: a third role of stage 3."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from worldmodel.autoencoder import ChannelNorm


class Discriminator(nn.Module):
    """How true every place of frames of latents looks, and each frame as a whole, under its words.

    Scores say how likely a clip is, and likely ones are plain. Who compares with true frames sees
    that less stands about in them. Source: Yin et al., arXiv 2405.14867 (DMD2), section 4.3.
    """

    def __init__(self, grid: tuple[int, int], channels: int, words: int, width: int) -> None:
        """Of latents with `channels` on a `grid`, told as many `words`."""
        super().__init__()
        self.grid = grid
        self.words = nn.Linear(words, width)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in range(2))
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.place, self.whole = nn.Conv2d(width, 1, 1), nn.Linear(width, 1)

    def forward(self, latents: Tensor, words: Tensor) -> Tensor:
        """Opinions [b f h w] of latents [b f p c] with words [b v] or [b f v]: more is truer."""
        b, f = latents.shape[:2]
        x = self.first(rearrange(latents, "b f (h w) c -> (b f) c h w", h=self.grid[0]))
        told = self.words(words if words.ndim == 3 else words[:, None].expand(-1, f, -1))
        x = x + told.flatten(0, 1)[..., None, None]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(functional.silu(norm(x)))
        x = functional.silu(x)
        opinion = self.place(x)[:, 0] + self.whole(x.mean((-2, -1)))[..., None]
        return opinion.unflatten(0, (b, f)).float()

    def parameters_for_muon(self) -> list[nn.Parameter]:
        """The kernels between equal widths."""
        return [p for p in self.layers.parameters() if p.ndim == 4]
