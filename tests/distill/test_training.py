"""The one loop: it resumes as if never stopped, and stops before it breaks anything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from distill.__main__ import main
from distill.clips import ClipSet
from distill.lineage import teacher_of
from distill.objectives import Moment
from distill.processes import Processes
from distill.run import load_autoencoder, load_transformer
from distill.stage_networks import build_network, build_networks, compile_network
from distill.stage_objectives import build_batches, build_objective
from distill.stages import load_stage
from distill.state import load_state, save_state
from distill.trainer import NotFiniteError, Trainer
from tests.distill.clip_maker import wan_clips, write_clips
from tests.worldmodel.tiny import shaken
from worldmodel.checkpoint import save_module
from worldmodel.transformer import WorldTransformer

ALONE = Processes(0, 1, torch.device("cpu"))
STAGES = sorted(f"nano/{path.stem}" for path in Path("configs/stage/nano").glob("*.yaml"))
OF_FRAMES = ("autoencoder", "decoder", "decoder-critic", "upscaler")
REAL_STAGES = sorted(path.stem for path in Path("configs/stage").glob("*.yaml"))


def _trainer(
    stage_name: str,
    data: Path,
    out: Path,
    *overrides: str,
    device: torch.device = ALONE.device,
) -> Trainer:
    stage, model = load_stage(Path(f"configs/stage/{stage_name}.yaml"), list(overrides))
    torch.manual_seed(stage.seed)
    processes = Processes(0, 1, device)
    batches = build_batches(stage, model, ClipSet(data), processes)
    out.mkdir(parents=True, exist_ok=True)
    teacher = None
    if teacher_of(stage.objective) is not None:
        teacher = out / "teacher"
        teacher.mkdir(exist_ok=True)
        other = shaken(build_network(stage, model, None), 0.05)
        save_module(teacher, "transformer", other, model.transformer, torch.float32)
    networks = build_networks(stage, model, None, teacher)
    for network in networks.values():
        network.to(device)
        if stage.compile:
            compile_network(network)
    objective = build_objective(stage, model, networks, teacher)
    return Trainer(stage, networks, objective, batches, out, processes)


def _data(stage_name: str, tmp_path: Path) -> Path:
    if stage_name.startswith("wan"):
        return wan_clips(tmp_path / "data")
    latents, paths = not stage_name.endswith(OF_FRAMES), stage_name.endswith("ode")
    larger = 2 if stage_name.endswith("upscaler") else 1
    return write_clips(tmp_path / "data", latents=latents, paths=paths, larger=larger)


@pytest.mark.parametrize("stage_name", REAL_STAGES)
def test_every_stage_builds_and_takes_two_steps(stage_name: str, tmp_path: Path) -> None:
    wan = stage_name.startswith("wan")
    overrides = [f"model=configs/model/{'wan-nano' if wan else 'nano'}.yaml"]
    overrides += ["batch_size=2", "compile=false", "resident=false"]
    frames = 1 if stage_name in OF_FRAMES else 8
    data = _data(stage_name, tmp_path)
    trainer = _trainer(stage_name, data, tmp_path, *overrides, "steps=2", f"frames={frames}")
    # of the roles due in two steps, the last listed moves: a critic that is still its teacher moves none
    trained = list(trainer.networks.values())[-1]
    before = [parameter.detach().clone() for parameter in trained.parameters()]
    assert trainer.run()["steps"] == 2
    pairs = zip(before, trained.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in pairs)


STREAMS = "objective.stream_share=0.8"
ONWARD = (STREAMS, "objective.stream_onward=0.5")
DISCRIMINATED = "objective.adversarial_weight=0.2"


@pytest.mark.parametrize(
    ("stage_name", "changed"),
    [
        *((stage, ()) for stage in STAGES),
        ("nano/1", ("accumulate=2",)),
        ("nano/3", (STREAMS,)),
        ("nano/3", (*ONWARD, DISCRIMINATED, "objective.critic_knows_step=true")),
        ("nano/3", (*ONWARD, "objective.stream_walks.frames=32", "objective.given_share=0.5")),
        ("nano/0", ("objective.given_share=0.5",)),
    ],
)
def test_ten_steps_are_five_a_kill_and_five_bit_for_bit(
    stage_name: str, changed: tuple[str, ...], tmp_path: Path
) -> None:
    data, steps = _data(stage_name, tmp_path), ["steps=10", *changed]
    whole = _trainer(stage_name, data, tmp_path / "whole", *steps)
    whole.run()
    first = _trainer(stage_name, data, tmp_path / "parts", *steps)
    advance = first.advance

    def killed_at_five(*arguments: Any) -> dict[str, Tensor]:
        if first.step == 5:
            first._save(0.0)
            raise KeyboardInterrupt
        return advance(*arguments)

    first.advance = killed_at_five  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = _trainer(stage_name, data, tmp_path / "parts", *steps)
    second.run()
    assert second.step == 10
    for role, network in whole.networks.items():
        theirs = second.networks[role].state_dict()
        for name, weight in network.state_dict().items():
            assert torch.equal(weight, theirs[name]), f"{role}: {name}"
    for a, b in zip(whole.average.weights, second.average.weights, strict=True):
        assert torch.equal(a, b)


JUDGED = ("dmd", "/3", "critic", "upscaler")


# the loss of a student that a critic judges is no distance that falls
@pytest.mark.parametrize("stage_name", [s for s in STAGES if not any(j in s for j in JUDGED)])
def test_every_stage_learns_something_in_a_few_steps(stage_name: str, tmp_path: Path) -> None:
    # these begin from a trained network and have the rate for that; here they begin from none
    slow = stage_name.endswith(("ode", "decoder"))
    faster = ["optimizer.learning_rate=5.0e-3", "optimizer.warmup_steps=2"] if slow else []
    if stage_name.endswith("decoder"):
        faster.append("optimizer.muon_learning_rate=5.0e-3")
    data = _data(stage_name, tmp_path)
    trainer = _trainer(stage_name, data, tmp_path / "run", "steps=40", *faster)
    batch = trainer.batches.at(0)

    def loss() -> float:
        moment = Moment(0, 0.0, torch.Generator().manual_seed(0))
        with torch.no_grad():
            return float(trainer.objective.loss("student", batch, moment)[0])

    before = loss()
    trainer.run()
    assert loss() < 0.95 * before


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    data = str(write_clips(tmp_path / "data", latents=True))
    stage = ["configs/stage/nano/1.yaml", "steps=60", "checkpoint_every_s=0.01", "--data", data]
    command = ["train", *stage, "--device", "cpu", "--out"]
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "distill", *command, str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    deadline = time.monotonic() + 60
    while not (out / "checkpoint.safetensors").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait(timeout=30)
    assert not (out / "report.json").exists()
    reached = load_state(out / "checkpoint.safetensors")["step"]
    assert 0 < reached < 60
    assert main([*command, str(out)]) == 0
    assert main([*command, str(tmp_path / "whole")]) == 0
    ours, theirs = load_transformer(out), load_transformer(tmp_path / "whole")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, ours.state_dict()[name]), name


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated shard", "00001.safetensors: truncated"),
        ("no poses", "00001.safetensors: lacks cameras, intrinsics"),
        ("other configuration", "holds a run of another configuration (it differs in seed)"),
        ("damaged checkpoint", "damaged or truncated checkpoint"),
        ("wrong network", "expected one transformer-1-of-N.safetensors"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_the_run_as_it_was(
    damage: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_clips(tmp_path / "data", latents=True), tmp_path / "run"
    train = ["train", "configs/stage/nano/0.yaml", "steps=2", "--data", str(data), "--out"]
    assert main([*train, str(out)]) == 0
    shard, more = data / "00001.safetensors", []
    if damage == "truncated shard":
        shard.write_bytes(shard.read_bytes()[:-9])
    elif damage == "no poses":
        save_file({"latents": torch.zeros(3, 8, 28, 8)}, shard, {"prompts": "[]"})
    elif damage == "other configuration":
        train.insert(2, "seed=1")
    elif damage == "damaged checkpoint":
        checkpoint = out / "checkpoint.safetensors"
        checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    else:
        empty = tmp_path / "empty"
        empty.mkdir()
        more = ["--init", str(empty)]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert main([*train, str(out), *more]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.splitlines()[-1].startswith("distill train: ")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_gradients_reach_every_parameter_of_the_student(tmp_path: Path) -> None:
    trainer = _trainer("nano/1", _data("nano/1", tmp_path), tmp_path / "run", "steps=4")
    trainer.run()  # zero-initialised layers pass nothing on before the first update
    moment = Moment(0, 0.0, torch.Generator().manual_seed(0))
    trainer.objective.loss("student", trainer.batches.at(0), moment)[0].backward()
    silent = [name for name, p in trainer.network.named_parameters() if p.grad is None]
    assert silent == []


def test_a_run_of_another_configuration_is_not_continued(tmp_path: Path) -> None:
    data = _data("nano/0", tmp_path)
    _trainer("nano/0", data, tmp_path / "run", "steps=2").run()
    with pytest.raises(ValueError, match=r"another configuration \(it differs in batch_size\)"):
        _trainer("nano/0", data, tmp_path / "run", "steps=2", "batch_size=1").run()


def test_training_stops_before_an_update_that_is_not_finite(tmp_path: Path) -> None:
    trainer = _trainer("nano/0", _data("nano/0", tmp_path), tmp_path / "run", "steps=3")
    before = [p.detach().clone() for p in trainer.network.blocks.parameters()]  # type: ignore[union-attr]
    trainer.network.latent_in.weight.data.fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(NotFiniteError, match="step 0"):
        trainer.run()
    for old, new in zip(before, trainer.network.blocks.parameters(), strict=True):  # type: ignore[union-attr]
        assert torch.equal(old, new)


def test_accumulated_gradients_are_the_mean_of_those_of_their_batches(tmp_path: Path) -> None:
    data = _data("nano/1", tmp_path)
    whole = _trainer("nano/1", data, tmp_path / "run", "accumulate=3")
    single = _trainer("nano/1", data, tmp_path / "single")
    batches = [whole.batches.at(index) for index in range(3)]

    def gradient(trainer: Trainer, read: list[Any]) -> tuple[Tensor, Tensor]:
        trainer._moment = Moment(0, 0.0, random)
        loss = trainer._gradient("student", read)["loss"]
        return trainer.network.latent_out.weight.grad.clone(), loss  # type: ignore[union-attr, operator]

    random = torch.Generator().manual_seed(0)
    whole._random = single._random = random
    each, losses = zip(*(gradient(single, [batch]) for batch in batches), strict=True)
    random.manual_seed(0)
    together, loss = gradient(whole, batches)
    torch.testing.assert_close(together, torch.stack(each).mean(0))
    torch.testing.assert_close(loss, torch.stack(losses).mean())


@pytest.mark.gpu
@pytest.mark.parametrize(
    "stage_name", ["nano/autoencoder", "nano/decoder-critic", "nano/1", "nano/2-causal-cd"]
)
def test_captured_steps_move_the_weights_as_plain_steps_do(
    stage_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over its first graph, the next one where the context becomes its own, and changing rates."""
    data, cuda = _data(stage_name, tmp_path), torch.device("cuda", 0)

    def trained(plain_calls: int) -> list[Tensor]:
        monkeypatch.setattr("distill.captured.PLAIN_CALLS", plain_calls)
        out = tmp_path / f"run-{plain_calls}"
        trainer = _trainer(stage_name, data, out, "steps=16", "compile=true", device=cuda)
        trainer.run()
        return [p.detach().float().cpu() for p in trainer.network.parameters()]

    for plain, captured in zip(trained(1000), trained(3), strict=True):
        torch.testing.assert_close(captured, plain, rtol=0.02, atol=2e-3)


def test_keys_may_stand_after_options_and_anything_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _data("nano/autoencoder", tmp_path)
    train = ["train", "configs/stage/nano/autoencoder.yaml", "--data", str(data)]
    train += ["--device", "cpu", "--out", str(tmp_path / "run"), "steps=1"]
    assert main(train) == 0
    assert '"steps": 1,' in (tmp_path / "run" / "report.json").read_text()
    with pytest.raises(SystemExit) as stopped:
        main([*train, "surprise"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: surprise" in capsys.readouterr().err


def test_weights_move_to_another_vocabulary_word_by_word(tmp_path: Path) -> None:
    stage, model = load_stage(Path("configs/stage/nano/1.yaml"), [])
    old = replace(model.transformer, vocabulary=("dusk", "snowfield", "fog"))
    network = shaken(WorldTransformer(old), 0.05)
    save_module(tmp_path, "transformer", network, old, torch.float32)
    larger = replace(model.transformer, vocabulary=("fog", "night", "dusk"))
    moved = build_network(stage, replace(model, transformer=larger), tmp_path)
    assert isinstance(moved, WorldTransformer)
    assert torch.equal(moved.words.weight[:, 0], network.words.weight[:, 2])
    assert torch.equal(moved.words.weight[:, 1], torch.zeros(old.width))
    assert torch.equal(moved.words.weight[:, 2], network.words.weight[:, 0])
    assert torch.equal(moved.latent_in.weight, network.latent_in.weight)
    with pytest.raises(ValueError, match="another architecture"):
        build_network(stage, replace(model, transformer=replace(larger, layers=3)), tmp_path)


def test_training_the_decoder_alone_leaves_every_latent_as_it_was(tmp_path: Path) -> None:
    data, run = _data("nano/decoder", tmp_path), tmp_path / "run"
    trained = tmp_path / "autoencoder"
    train = ["train", "configs/stage/nano/autoencoder.yaml", "steps=3", "--data", str(data)]
    assert main([*train, "--device", "cpu", "--out", str(trained)]) == 0
    again = ["train", "configs/stage/nano/decoder.yaml", "steps=3", "--data", str(data)]
    again += ["--device", "cpu", "--out", str(run)]
    assert main(again) == 2  # from nothing there are no latents to keep
    assert main([*again, "--init", str(trained)]) == 0
    before, after = load_autoencoder(trained), load_autoencoder(run)
    frames = torch.rand(2, 3, 64, 112) * 2 - 1
    with torch.no_grad():
        latents = before.encode(frames)
        assert torch.equal(after.encode(frames), latents)
        assert not torch.equal(after.decode(latents), before.decode(latents))
    assert before.latent_moments is not None and after.latent_moments is not None
    torch.testing.assert_close(after.latent_moments.mean, before.latent_moments.mean)


def test_a_run_with_accumulated_steps_reads_every_batch_once(tmp_path: Path) -> None:
    data = _data("nano/1", tmp_path)
    trainer = _trainer("nano/1", data, tmp_path / "run", "steps=4", "accumulate=2")
    read: list[int] = []
    plain = trainer.batches.at
    trainer.batches.at = lambda step: (read.append(step), plain(step))[1]  # type: ignore[method-assign]
    assert trainer.run()["steps"] == 4
    assert sorted(read) == list(range(8))


def test_the_log_tells_the_roles_apart(tmp_path: Path) -> None:
    data = _data("nano/3", tmp_path)
    report = _trainer("nano/3", data, tmp_path / "run", "steps=1").run()
    assert {"loss", "gradient_norm", "critic_loss", "critic_gradient_norm"} <= set(report["last"])


def test_a_time_budget_ends_a_stage_on_schedule(tmp_path: Path) -> None:
    data = _data("nano/0", tmp_path)
    overrides = ["steps=100000", "time_budget_s=1.0"]
    trainer = _trainer("nano/0", data, tmp_path / "run", *overrides)
    report = trainer.run()
    assert 0 < report["steps"] < 100000


def test_training_state_survives_the_file(tmp_path: Path) -> None:
    state = {"a": [torch.arange(3), {"b": 1.5, 3: "x"}], "none": None, "flag": True}
    save_state(tmp_path / "s.safetensors", state)
    back = load_state(tmp_path / "s.safetensors")
    assert torch.equal(back["a"][0], torch.arange(3))
    assert back["a"][1] == {"b": 1.5, 3: "x"}
    assert back["none"] is None
    assert back["flag"] is True


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_state(path, {"x": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="damaged or truncated checkpoint"):
        load_state(path)


def test_a_stage_refuses_weights_of_another_kind(tmp_path: Path) -> None:
    from distill.run import run_stage

    stage, model = load_stage(Path("configs/stage/nano/0.yaml"), ["steps=1"])
    data = _data("nano/0", tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="expected one transformer-1-of-N"):
        run_stage(stage, model, data, tmp_path / "run", empty, ALONE)
    assert not (tmp_path / "run").exists()
