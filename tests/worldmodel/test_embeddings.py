"""Prompts of Wan models, from UMT5 or from a file of embeddings."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.worldmodel import tiny_wan
from worldmodel.__main__ import main
from worldmodel.models import open_prompts
from worldmodel.text_encoder import clean, encode_prompt


@pytest.fixture
def umt5(tmp_path: Path) -> Path:
    """A tiny random UMT5 with a tokenizer of four words, laid out as Wan's."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "quiet": 4, "forest": 5}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(tmp_path / "wan" / "tokenizer")
    config = transformers.UMT5Config(
        vocab_size=6, d_model=20, d_kv=4, d_ff=16, num_layers=1, num_heads=2
    )
    torch.manual_seed(0)
    encoder = transformers.UMT5EncoderModel(config)
    encoder.save_pretrained(tmp_path / "wan" / "text_encoder")
    return tmp_path / "wan"


def test_a_prompt_is_encoded_once_and_read_from_the_folder(tmp_path: Path, umt5: Path) -> None:
    folder = tiny_wan.model_folder(tmp_path)
    assert main(["prompt", str(folder), "a quiet forest", "--umt5", str(umt5)]) == 0
    found = open_prompts(folder)("a quiet forest")
    assert found.shape == (1, 7, 20)
    assert torch.equal(found[0, :3], encode_prompt(umt5, "a  quiet\nforest", 7))
    assert not found[0, 3:].any()
    assert found[0, :3].any(-1).all()
    assert len(encode_prompt(umt5, "a quiet forest " * 9, 7)) == 7  # cut, as in training


def test_embeddings_from_elsewhere_are_stored_under_their_text(tmp_path: Path) -> None:
    folder, file = tiny_wan.model_folder(tmp_path), tmp_path / "mine.safetensors"
    save_file({"prompt_embeds": torch.ones(1, 4, 20)}, file)
    assert main(["prompt", str(folder), "an island", "--embeddings", str(file)]) == 0
    assert open_prompts(folder)("an island").sum() == 80


def test_a_prompt_that_cannot_be_encoded_is_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_wan.model_folder(tmp_path)
    command = ["prompt", str(folder), "an island", "--umt5", str(tmp_path)]
    pytest.importorskip("transformers")
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "no UMT5 here" in error and "supply embeddings" in error and error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "pip install -e '.[wan]'" in error and error.count("\n") == 1
    assert main(["prompt", str(tmp_path), "x", "--umt5", str(tmp_path)]) == 2
    assert "no Wan model here" in capsys.readouterr().err


def test_prompts_are_cleaned_as_in_training() -> None:
    assert clean("  a &amp;amp; b\n c ") == "a & b c"
