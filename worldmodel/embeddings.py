"""Prompts of Wan models: text embeddings, read from safetensors files.

A prompt's embeddings are computed once, outside of play, and kept in the model's folder as
`prompts/<digest of the text>.safetensors`: one tensor `embeddings` [tokens width], with the text in the
metadata. Tokens after its end are zeros; the empty prompt without a file is zeros alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

NAME = "embeddings"


@dataclass(frozen=True, slots=True)
class PromptFolder:
    """Reads the prompts of one model."""

    folder: Path
    tokens: int
    width: int

    def __call__(self, prompt: str) -> Tensor:
        """Embeddings [1 tokens width] of a text, or of the `.safetensors` file it names.

        Raises:
            ValueError: saying where embeddings are expected, if there are none.
        """
        path = self.path_of(prompt)
        if prompt.endswith(".safetensors"):
            path = Path(prompt)
        if not path.is_file():
            if not prompt:
                return torch.zeros(1, self.tokens, self.width)
            raise ValueError(
                f"prompt {prompt!r}: no embeddings of it in {self.folder}; store them with"
                " `python -m worldmodel prompt`, or name a .safetensors file that holds them"
            )
        return self._padded(read_embeddings(path), path)

    def path_of(self, prompt: str) -> Path:
        digest = hashlib.sha256(prompt.encode()).hexdigest()[:16]
        return self.folder / f"{digest}.safetensors"

    def store(self, prompt: str, embeddings: Tensor) -> Path:
        """Keep the embeddings [n width] of a text, n at most `tokens`.

        Raises:
            ValueError: if they do not fit the model.
        """
        self._padded(embeddings, Path(NAME))
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path_of(prompt)
        temporary = path.with_suffix(".tmp")
        save_file({NAME: embeddings.contiguous()}, temporary, {"prompt": prompt})
        temporary.replace(path)
        return path

    def _padded(self, embeddings: Tensor, path: Path) -> Tensor:
        count, width = embeddings.shape
        if width != self.width or count > self.tokens:
            raise ValueError(
                f"{path}: {count} embeddings of width {width}; this model reads at most"
                f" {self.tokens} of width {self.width}"
            )
        return functional.pad(embeddings.float(), (0, 0, 0, self.tokens - count))[None]


def read_embeddings(path: Path) -> Tensor:
    """The one tensor of a safetensors file, [n width]; [1 n width] will do.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged, or no safetensors file ({error})") from None
    if len(tensors) != 1:
        raise ValueError(f"{path}: expected one tensor of embeddings, found {sorted(tensors)}")
    (embeddings,) = tensors.values()
    if embeddings.ndim == 3 and len(embeddings) == 1:
        embeddings = embeddings[0]
    if embeddings.ndim != 2:
        raise ValueError(
            f"{path}: embeddings of shape {tuple(embeddings.shape)}, expected (n, width)"
        )
    return embeddings
