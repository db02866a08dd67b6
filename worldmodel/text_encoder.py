"""UMT5, Wan's text encoder, through the optional package `transformers`. Used once per prompt.

UMT5-XXL has 5.7 billion parameters and no place in a program that plays: `python -m worldmodel prompt`
encodes a text, stores its embeddings in the model's folder and ends.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def encode_prompt(folder: Path, prompt: str, most_tokens: int) -> Tensor:
    """Embeddings [n width] of a text, n at most `most_tokens`; longer ones are cut.

    Raises:
        ValueError: if the weights or the package are not there, saying what to do.
    """
    return load_encoder(folder, most_tokens)(prompt)


def load_encoder(folder: Path, most_tokens: int) -> Callable[[str], Tensor]:
    """`encode_prompt` for many texts.

    `folder` is laid out as Wan's for diffusers: `tokenizer/` and `text_encoder/`.

    Raises:
        ValueError: if the weights or the package are not there, saying what to do.
    """
    encoder_type, tokenizer_type = _transformers()
    for part in ("tokenizer", "text_encoder"):
        if not (folder / part).is_dir():
            raise ValueError(
                f"{folder}: no UMT5 here (it needs the folders tokenizer and text_encoder of a Wan"
                " repository for diffusers); or supply embeddings as a .safetensors file"
            )
    try:
        tokenizer = tokenizer_type.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder = encoder_type.from_pretrained(
            folder / "text_encoder", local_files_only=True, use_safetensors=True, dtype="auto"
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: {' '.join(str(error).split())}") from error
    encoder.eval()

    def encode(prompt: str) -> Tensor:
        text = clean(prompt)
        ids = tokenizer(text, truncation=True, max_length=most_tokens, return_tensors="pt")
        with torch.inference_mode():
            hidden: Tensor = encoder(ids.input_ids, ids.attention_mask).last_hidden_state
        return hidden[0].float().clone()

    return encode


def clean(prompt: str) -> str:
    """As Wan's prompts were cleaned: no HTML entities, single spaces."""
    return " ".join(html.unescape(html.unescape(prompt)).split())


def _transformers() -> tuple[Any, Any]:
    try:
        from transformers import AutoTokenizer, UMT5EncoderModel
    except ImportError as error:
        raise ValueError(
            "encoding a prompt needs the package transformers: pip install -e '.[wan]'; or supply"
            " embeddings as a .safetensors file"
        ) from error
    return UMT5EncoderModel, AutoTokenizer
