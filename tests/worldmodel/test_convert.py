"""Published checkpoints come in and go out without a value changed, and nothing else comes in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.worldmodel import tiny_wan
from worldmodel import config as strict
from worldmodel import wan_keys
from worldmodel.__main__ import main
from worldmodel.checkpoint import load_model
from worldmodel.convert import convert, describe, export
from worldmodel.models import WanModelConfig, load_playable
from worldmodel.wan import WanConfig, WanTransformer

NANO = str(tiny_wan.NANO)
FSDP = "model._fsdp_wrapped_module."


def _model(camera: bool = True) -> WanTransformer:
    wanted = tiny_wan.model_config().transformer
    return tiny_wan.transformer(tiny_wan.config(camera, layers=wanted.layers))


def _same_weights(folder: Path, model: WanTransformer) -> None:
    loaded = load_playable(folder).transformer
    assert isinstance(loaded, WanTransformer)
    assert loaded.config == model.config
    weights = loaded.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(weights[name], value), name


def _decoder(folder: Path) -> Path:
    path = folder / "taew2_1.safetensors"
    save_file(tiny_wan.decoder().state_dict(), path)
    return path


def _as_pt(path: Path, tensors: dict[str, Tensor], top_key: str | None) -> Path:
    torch.save(tensors if top_key is None else {"step": 7, top_key: tensors}, path)
    return path


@pytest.mark.parametrize("camera", [True, False])
@pytest.mark.parametrize("layout", ["wan", "diffusers"])
def test_a_published_layout_goes_in_and_out_unchanged(
    tmp_path: Path, layout: wan_keys.Layout, camera: bool
) -> None:
    model = _model(camera)
    source = tmp_path / "source.safetensors"
    save_file(tiny_wan.published(model, layout), source)
    folder, decoder = tmp_path / "model", _decoder(tmp_path)
    config = convert(source, folder, tiny_wan.model_config(), decoder=decoder)
    assert config.camera is camera
    _same_weights(folder, model)
    export(folder, tmp_path / "again.safetensors", layout)
    first, again = load_file(source), load_file(tmp_path / "again.safetensors")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("top_key", "prefix"),
    [
        ("generator_ema", FSDP),  # Causal-Forcing
        ("generator", "model."),  # Self-Forcing
        ("model", "model._orig_mod._checkpoint_wrapped_module."),
        (None, ""),  # minWM, or plain
    ],
)
def test_pt_checkpoints_are_read_under_every_wrapping(
    tmp_path: Path, top_key: str | None, prefix: str
) -> None:
    model = _model()
    source = _as_pt(tmp_path / "model.pt", tiny_wan.published(model, "wan", prefix), top_key)
    decoder = _decoder(tmp_path)
    convert(source, tmp_path / "model", tiny_wan.model_config(), decoder=decoder)
    _same_weights(tmp_path / "model", model)
    assert describe(source)["weights"] == top_key


def test_the_table_has_the_825_tensors_of_wan_and_the_885_of_minwm() -> None:
    full = tiny_wan.NANO.with_name("wan2.1-1.3b.yaml")
    config = strict.load(full, WanModelConfig).transformer
    names = {e.their_name: e.their_shape for e in wan_keys.table(config, "wan")}
    assert len(names) == 825
    assert wan_keys.parameters(names) == 1_418_996_800
    assert names["patch_embedding.weight"] == (1536, 16, 1, 2, 2)
    assert names["blocks.29.modulation"] == (1, 6, 1536)
    assert names["time_projection.1.weight"] == (9216, 1536)
    assert names["head.modulation"] == (1, 2, 1536)
    assert names["blocks.3.cross_attn.norm_k.weight"] == (1536,)
    camera = strict.load(full.with_name("wan2.1-1.3b-camera.yaml"), WanModelConfig)
    more = {e.their_name: e.their_shape for e in wan_keys.table(camera.transformer, "wan")}
    assert len(more) == 885
    assert wan_keys.parameters(more) - wan_keys.parameters(names) == 70_824_960
    assert more["blocks.0.self_attn.prope_o.weight"] == (1536, 1536)


def test_the_diffusers_layout_is_that_of_the_installed_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    config = tiny_wan.config(camera=False)
    with torch.device("meta"):
        theirs = diffusers.WanTransformer3DModel(
            num_attention_heads=config.heads,
            attention_head_dim=config.head_width,
            text_dim=config.text_width,
            freq_dim=2 * config.noise_frequencies,
            ffn_dim=config.mlp_width,
            num_layers=config.layers,
        )
    ours = {e.their_name: e.their_shape for e in wan_keys.table(config, "diffusers")}
    assert ours == {name: tuple(value.shape) for name, value in theirs.state_dict().items()}


def test_every_missing_unexpected_and_misshaped_tensor_is_named(tmp_path: Path) -> None:
    tensors = tiny_wan.published(_model(), "wan")
    del tensors["blocks.1.ffn.0.bias"], tensors["blocks.0.self_attn.prope_o.bias"]
    tensors["img_emb.proj.weight"] = torch.zeros(2)
    tensors["head.head.bias"] = torch.zeros(3)
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError) as caught:
        convert(tmp_path / "odd.safetensors", tmp_path / "model", tiny_wan.model_config())
    for part in (
        "odd.safetensors: ",
        "missing blocks.1.ffn.0.bias",
        "missing blocks.0.self_attn.prope_o.bias",
        "unexpected img_emb.proj.weight",
        "head.head.bias has shape (3,), expected (64,)",
    ):
        assert part in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.safetensors"]


def _refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_what_cannot_be_converted_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, config = tmp_path / "model", ("--config", NANO)
    large = tiny_wan.transformer(tiny_wan.config(width=64, layers=1))
    save_file(tiny_wan.published(large, "wan"), tmp_path / "large.safetensors")
    error = _refused(capsys, "convert", tmp_path / "large.safetensors", target, *config)
    assert "1 layers and width 64; the config is one of 2 layers and width 48" in error
    save_file({"conv.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    error = _refused(capsys, "convert", tmp_path / "other.safetensors", target, *config)
    assert "not a Wan transformer: it holds 1 tensors (conv.weight" in error
    assert "does not exist" in _refused(capsys, "convert", tmp_path / "none.pt", target, *config)
    whole = _as_pt(tmp_path / "whole.pt", tiny_wan.published(_model(), "wan"), "generator")
    for name, source in (("cut.pt", whole), ("cut.safetensors", tmp_path / "large.safetensors")):
        data = source.read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        error = _refused(capsys, "convert", tmp_path / name, target, *config)
        assert name in error and ("not complete" in error or "truncated" in error)
    assert not target.exists()
    target.mkdir()
    error = _refused(capsys, "convert", whole, target, *config)
    assert "exists; name a new one" in error


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proof, source = tmp_path / "was-run", tmp_path / "evil.pt"
    torch.save({"model": tiny_wan.published(_model(), "wan"), "x": _Payload(proof)}, source)
    error = _refused(capsys, "convert", source, tmp_path / "model", "--config", NANO)
    assert "holds code" in error and "mkdir" in error
    assert not proof.exists()


def test_a_missing_part_of_a_sharded_checkpoint_is_noticed(tmp_path: Path) -> None:
    tensors = tiny_wan.published(_model(), "diffusers")
    names = sorted(tensors)
    for index, part in enumerate((names[:20], names[20:]), 1):
        path = tmp_path / "sharded" / f"diffusion_pytorch_model-0000{index}-of-00002.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({name: tensors[name] for name in part}, path)
    convert(tmp_path / "sharded", tmp_path / "model", tiny_wan.model_config())
    path.unlink()
    with pytest.raises(ValueError, match="1 of 2 parts are here"):
        convert(tmp_path / "sharded", tmp_path / "other", tiny_wan.model_config())


def test_info_says_what_a_file_is_and_which_rollout_it_was_made_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_wan.model_folder(tmp_path)
    assert main(["info", str(folder)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layout"] == "ours" and found["camera_branch"] is True
    assert found["layers"] == 2 and found["width"] == 48
    assert found["rollout"]["steps"] == 2 and found["rollout"]["block_frames"] == 1
    plain = describe(tmp_path / "source.safetensors")
    assert plain["layout"] == "wan" and "not recorded" in plain["rollout"]
    assert "tiny decoder" in describe(tmp_path / "taew2_1.safetensors")["is"]


def test_info_of_a_world_model_of_ours_says_its_words_and_how_it_is_played() -> None:
    found = describe(Path("assets/pocket"))
    assert found["is"] == "a world transformer" and "layout" not in found
    assert found["layers"] == 8 and found["latent"] == [8, 14, 48]
    assert 11e6 < found["parameters"] < 12e6
    assert "lighthouse" in found["words"] and found["rollout"]["steps"] == 2


def test_the_command_converts_both_ways(tmp_path: Path) -> None:
    tiny_wan.model_folder(tmp_path)
    source, again = tmp_path / "source.safetensors", tmp_path / "again"
    decoder = tmp_path / "taew2_1.safetensors"
    options = ["--config", NANO, "--decoder", str(decoder), "--dtype", "bfloat16"]
    command = ["convert", str(source), str(again), "playable.rollout.steps=4", *options]
    assert main(command) == 0
    assert describe(again)["rollout"]["steps"] == 4
    assert describe(again)["dtype"] == "bfloat16"
    out = tmp_path / "out.safetensors"
    assert main(["convert", str(again), str(out), "--layout", "diffusers"]) == 0
    assert describe(out)["layout"] == "diffusers"


def test_shards_are_written_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldmodel.convert.SHARD_BYTES", 40_000)
    folder = tiny_wan.model_folder(tmp_path)
    sizes = [path.stat().st_size for path in folder.glob("transformer-*-of-*.safetensors")]
    assert len(sizes) > 3
    assert max(sizes) < 60_000
    config = tiny_wan.model_config().transformer
    _same_weights(folder, tiny_wan.transformer(config))


def test_a_wan_model_is_refused_where_only_the_shipped_kind_will_do(tmp_path: Path) -> None:
    folder = tiny_wan.model_folder(tmp_path)
    with pytest.raises(ValueError, match="can be played and trained, but not evaluated"):
        load_model(folder)


def test_a_model_without_a_decoder_says_how_to_add_one(tmp_path: Path) -> None:
    folder = tiny_wan.model_folder(tmp_path, with_decoder=False)
    with pytest.raises(ValueError, match="no decoder here; convert again with --decoder"):
        load_playable(folder)


def test_a_decoder_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="the decoder reads"):
        tiny_wan.model_config("decoder.height_px=64")


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4 channels"):
        WanConfig(**{**tiny_wan.VALUES, "heads": 5, "camera": False})  # type: ignore[arg-type]
