"""Wan's transformer is trained by the same loop, on one process or spread over several."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distill.__main__ import main
from distill.batches import LatentBatch, to_device
from distill.clips import ClipSet
from distill.networks import WanStudent
from distill.objectives import Moment
from distill.processes import Processes
from distill.stage_networks import build_network
from distill.stage_objectives import build_batches
from distill.stages import load_stage
from distill.state import load_state
from tests.distill import sharded
from tests.distill.clip_maker import wan_clips
from tests.worldmodel import tiny_wan
from worldmodel import attention
from worldmodel.attention import attend_all
from worldmodel.checkpoint import assign
from worldmodel.models import load_playable

ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wan_clips(tmp_path_factory.mktemp("wan") / "data")


@pytest.fixture(scope="module")
def of_two_processes(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes with sharded weights leave behind."""
    out = tmp_path_factory.mktemp("sharded")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc_per_node", "2", "-m", "tests.distill.sharded", str(data), str(out)]
    done = subprocess.run(launch, check=False, timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("name", sharded.STAGES)
def test_a_step_of_two_sharded_processes_is_that_of_one(
    name: str, data: Path, of_two_processes: Path
) -> None:
    networks, objective, optimizers = sharded.made(name, sharded.ALONE)
    before = sharded.weights(networks["student"])
    for rank in range(2):
        # the rollout of stage 3 is one of 4 frames for both
        sharded.backward(objective, sharded.batches(name, data), rank, 0.5)
    sharded.update(optimizers)
    theirs = load_file(of_two_processes / f"{name}.safetensors")
    moved = False
    for key, ours in sharded.weights(networks["student"]).items():
        torch.testing.assert_close(ours, theirs[key], rtol=1e-4, atol=1e-5, msg=key)
        moved |= not torch.equal(ours, before[key])
    assert moved


@pytest.mark.parametrize("name", sharded.RESUMED)
def test_sharded_steps_are_half_of_them_a_kill_and_the_rest_bit_for_bit(
    name: str, of_two_processes: Path
) -> None:
    whole = load_file(of_two_processes / f"{name}-whole" / "weights.safetensors")
    parts = load_file(of_two_processes / f"{name}-parts" / "weights.safetensors")
    assert whole.keys() == parts.keys()
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key


def test_a_checkpoint_of_two_processes_is_whole_and_goes_on_in_one(
    data: Path, of_two_processes: Path, tmp_path: Path
) -> None:
    checkpoint = of_two_processes / "wan-2-causal-cd-whole" / "checkpoint.safetensors"
    saved = load_state(checkpoint)
    out = tmp_path / "run"
    out.mkdir()
    (out / checkpoint.name).write_bytes(checkpoint.read_bytes())
    alone = sharded.trainer("wan-2-causal-cd", data, out, sharded.ALONE, "steps=10", "accumulate=2")
    alone._resume()
    assert alone.step == 10
    for key, value in sharded.weights(alone.network).items():
        assert torch.equal(value, saved["networks"]["student"][key]), key
    moments = alone.optimizers["student"].state_dict()["0"]["state"][0]["exp_avg_sq"]
    assert torch.equal(moments, saved["optimizers"]["student"]["0"]["state"][0]["exp_avg_sq"])
    assert moments.abs().sum() > 0


def test_a_sharded_run_leaves_whole_averages_that_one_process_begins_with(
    of_two_processes: Path,
) -> None:
    run = of_two_processes / "run"
    stage, model = load_stage(Path("configs/stage/wan-1.yaml"), list(sharded.OVERRIDES))
    network = build_network(stage, model, run)
    averages = load_state(run / "checkpoint.safetensors")["average"]
    for ours, average in zip(network.parameters(), averages, strict=True):
        assert torch.equal(ours, average)
    assert json.loads((run / "report.json").read_text())["processes"] == 2


def _gradients(name: str, data: Path, blocks: int) -> tuple[float, dict[str, Tensor]]:
    networks, objective, _ = sharded.made(name, sharded.ALONE, f"checkpoint_blocks={blocks}")
    loss = sharded.backward(objective, sharded.batches(name, data), 0, 1.0)
    found = {k: p.grad for k, p in networks["student"].named_parameters() if p.grad is not None}
    return loss, found


@pytest.mark.parametrize("name", sharded.STAGES)
def test_blocks_that_are_computed_again_give_the_same_gradients(name: str, data: Path) -> None:
    loss, kept = _gradients(name, data, 0)
    again_loss, again = _gradients(name, data, 2)
    assert loss == again_loss
    assert kept.keys() == again.keys()
    assert len(kept) > 40
    for key, gradient in kept.items():
        torch.testing.assert_close(again[key], gradient, rtol=1e-5, atol=1e-7, msg=key)


class Counted(TorchDispatchMode):
    """How often attention is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.attention += func is ATTENTION
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("compiled", "times"), [(False, 4), (True, 0)])
def test_compiled_blocks_that_are_computed_again_keep_what_attention_gave(
    compiled: bool, times: int, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # compilers for CPUs take minutes; this one divides the graph as they do and runs it as it is
    quick = partial(torch.compile, backend="aot_eager_decomp_partition")
    monkeypatch.setattr(torch, "compile", quick)
    overrides = ("checkpoint_blocks=2", f"compile={str(compiled).lower()}")
    networks, objective, _ = sharded.made("wan-1", sharded.ALONE, *overrides)
    moment = Moment(0, 0.0, torch.Generator().manual_seed(0))
    loss, _ = objective.loss("student", sharded.batches("wan-1", data).at(0), moment)
    with Counted() as counted:
        loss.backward()
    assert counted.attention == times
    _, kept = _gradients("wan-1", data, 0)
    for key, parameter in networks["student"].named_parameters():
        torch.testing.assert_close(parameter.grad, kept[key], rtol=1e-3, atol=1e-6, msg=key)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["wan-0", "wan-1", "wan-2-causal-cd"])
def test_on_a_gpu_compiled_tiles_give_the_gradients_of_a_dense_mask(
    name: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Processes(0, 1, torch.device("cuda"))
    batch = to_device(sharded.batches(name, data).at(0), gpu.device)

    def gradients(*overrides: str) -> dict[str, Tensor]:
        networks, objective, _ = sharded.made(name, gpu, *overrides)
        moment = Moment(0, 0.0, torch.Generator("cuda").manual_seed(0))
        objective.loss("student", batch, moment)[0].backward()
        found = networks["student"].named_parameters()
        return {key: p.grad for key, p in found if p.grad is not None}

    tiles = gradients("compile=true", "checkpoint_blocks=2")

    def dense(seen: Tensor, tokens: int) -> Tensor:
        return seen.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)

    monkeypatch.setattr(attention, "mask_of_frames", dense)
    for key, gradient in gradients("compile=false", "checkpoint_blocks=0").items():
        size = float(gradient.abs().max())
        allowed = 0.02 * size + 1e-7
        torch.testing.assert_close(tiles[key], gradient, rtol=0.02, atol=allowed, msg=key)


def test_what_is_trained_is_what_is_played() -> None:
    player = tiny_wan.transformer()
    student = WanStudent(player.config)
    assign(student, player.state_dict(), "player")
    random = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 3, 6, 64, generator=random)
    sigma = torch.tensor([[0.2, 0.5, 1.0]])
    poses = torch.eye(4).repeat(1, 3, 1, 1)
    poses[..., :3, 3] = torch.randn(1, 3, 3, generator=random)
    geometry = player.geometry(poses, tiny_wan.LENS.expand(1, 3, 4), torch.arange(3.0)[None])
    prompt, kernels = tiny_wan.prompt(player.config), [attend_all] * player.config.layers
    with torch.no_grad():
        played = player(latents, sigma, player.condition(prompt), player.places(geometry), kernels)
        trained = student(latents, sigma, prompt.flatten(1), geometry, kernels)
    assert torch.equal(trained, played)


def test_base_weights_get_a_camera_branch_that_changes_nothing_yet(tmp_path: Path) -> None:
    folder = tiny_wan.model_folder(tmp_path, "transformer.camera=false")
    base = load_playable(folder).transformer
    stage, model = load_stage(Path("configs/stage/wan-0.yaml"), list(sharded.OVERRIDES))
    network = build_network(stage, model, folder)
    assert isinstance(network, WanStudent)
    assert network.config.camera
    latents, sigma = torch.randn(1, 2, 6, 64), torch.full((1, 2), 0.7)
    poses = torch.eye(4).expand(1, 2, 4, 4)
    geometry = network.geometry(poses, tiny_wan.LENS.expand(1, 2, 4), torch.arange(2.0)[None])
    prompt, kernels = tiny_wan.prompt(network.config), [attend_all] * network.config.layers
    with torch.no_grad():
        known = base(latents, sigma, base.condition(prompt), base.places(geometry), kernels)
        ours = network(latents, sigma, prompt.flatten(1), geometry, kernels)
    torch.testing.assert_close(ours, known, rtol=1e-4, atol=1e-5)


def test_prompts_are_read_as_embeddings_and_dropped_as_zeros(data: Path) -> None:
    path = Path("configs/stage/wan-1.yaml")
    stage, model = load_stage(path, list(sharded.OVERRIDES))
    told = build_batches(stage, model, ClipSet(data), sharded.ALONE).at(0)
    assert isinstance(told, LatentBatch)
    assert told.words.shape == (1, 7 * 20)
    assert told.words[0, : 5 * 20].abs().min() > 0
    assert not told.words[0, 5 * 20 :].any(), "zeros after its end"
    stage, model = load_stage(path, [*sharded.OVERRIDES, "prompt_dropout=1.0"])
    assert not build_batches(stage, model, ClipSet(data), sharded.ALONE).at(0).words.any()


def test_no_discriminator_judges_wan() -> None:
    overrides = ["accumulate=1", "objective.adversarial_weight=0.1"]
    with pytest.raises(ValueError, match="is a Wan model: adversarial_weight must be 0"):
        load_stage(Path("configs/stage/wan-3.yaml"), overrides)


@pytest.mark.parametrize(
    ("stage", "override", "message"),
    [
        ("wan-1", "time_reversal=0.5", "time_reversal must be 0"),
        ("wan-0", "spread_share=0.5", "spread_share must be 0"),
        ("wan-3", "objective.critic_knows_step=true", "critic_knows_step must be false"),
        ("wan-3", "objective.adversarial_weight=0.1", "a discriminator sees one batch a step"),
        ("wan-1", "sample_every=5", "shard is for transformers, and without samples"),
        ("wan-1", "optimizer.muon_learning_rate=1.0e-3", "Muon needs whole matrices"),
        ("wan-1", "capture=true", "weights that come and go cannot be captured"),
        ("wan-1", "checkpoint_blocks=-1", "checkpoint_blocks not negative"),
        ("autoencoder", "shard=true", "set capture: false"),
        ("nano/0", "model=configs/model/wan-nano.yaml", "is a Wan model: time_reversal must be 0"),
    ],
)
def test_what_wan_or_sharding_cannot_do_is_one_line(
    stage: str,
    override: str,
    message: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["train", f"configs/stage/{stage}.yaml", override, "--data", str(data)]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_prompt_without_embeddings_is_named_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = wan_clips(tmp_path / "data")
    (embedded,) = (clips / "prompts").iterdir()
    embedded.unlink()
    arguments = ["train", "configs/stage/wan-1.yaml", *sharded.OVERRIDES, "--data", str(clips)]
    assert main([*arguments, "--device", "cpu", "--out", str(tmp_path / "run")]) == 2
    assert "no embeddings of 'meadow'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
