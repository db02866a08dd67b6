"""The clip format: strict when read, whole or absent when written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from distill.batches import FrameBatches, LatentBatches, prefetch
from distill.clips import ClipSet, write_shard
from tests.distill.clip_maker import write_clips


def _latent_batches(
    folder: Path,
    rank: int = 0,
    ranks: int = 1,
    reversal: float = 0.5,
    spread_share: float = 0.0,
    spread_frames: int = 8,
) -> LatentBatches:
    return LatentBatches(
        ClipSet(folder),
        ("meadow",),
        batch_size=2,
        frames=4,
        time_reversal=reversal,
        prompt_dropout=0.0,
        seed=1,
        rank=rank,
        ranks=ranks,
        spread_share=spread_share,
        spread_frames=spread_frames,
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    clips = ClipSet(write_clips(tmp_path / "c"))
    assert len(clips) == 6
    assert clips.frames_per_clip == 8
    assert clips.array("frames", 4, 2, 3).shape == (3, 64, 112, 3)
    shard, row = clips.locate(4)
    assert (shard.path.name, row) == ("00001.safetensors", 1)
    assert clips.prompt(4) == "meadow"


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "c")
    shard = folder / "00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"00001\.safetensors: truncated"):
        ClipSet(folder)


def test_a_missing_shard_or_manifest_is_named(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "c")
    (folder / "00000.safetensors").unlink()
    with pytest.raises(ValueError, match=r"00000\.safetensors: listed in the manifest"):
        ClipSet(folder)
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        ClipSet(tmp_path)


def test_a_shard_without_poses_is_named(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = write_clips(tmp_path / "c")
    save_file({"frames": np.zeros((3, 8, 4, 4, 3), np.uint8)}, folder / "00000.safetensors")
    with pytest.raises(ValueError, match="lacks cameras, intrinsics"):
        ClipSet(folder)


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "c")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": "other"}))
    with pytest.raises(ValueError, match="format 'other'"):
        ClipSet(folder)


def test_arrays_that_disagree_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="are not of the same clips"):
        write_shard(
            path,
            cameras=np.zeros((2, 4, 4, 4)),
            intrinsics=np.zeros((2, 4, 4), np.float32),
            prompts=["", ""],
            metadata={},
            frames=np.zeros((2, 5, 8, 8, 3), np.uint8),
        )
    assert not path.exists()


def test_latents_are_asked_of_a_folder_that_has_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no latents"):
        _latent_batches(write_clips(tmp_path / "c"))


def test_a_batch_is_a_pure_function_of_its_step(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "c", latents=True)
    first, again = _latent_batches(folder).at(5), _latent_batches(folder).at(5)
    assert first.latents.equal(again.latents)
    assert first.camera_from_anchor.equal(again.camera_from_anchor)
    frames = FrameBatches(ClipSet(write_clips(tmp_path / "f")), 4, 0, 0)
    assert frames.at(3).frames.equal(frames.at(3).frames)
    assert not frames.at(3).frames.equal(frames.at(4).frames)


def test_spread_frames_are_neighbours_at_the_end_and_a_quarter_of_them_lies_before(
    tmp_path: Path,
) -> None:
    folder = write_clips(tmp_path / "c", latents=True, clips=4)
    clips = ClipSet(folder)
    reader = _latent_batches(folder, reversal=0.5, spread_share=0.7)
    gaps, backwards = set(), 0
    for step in range(40):
        batch = reader.at(step)
        for row, clip in enumerate(reader.chosen(step)):
            whole = clips.array("latents", clip, 0, 8)
            at = [
                int(np.flatnonzero((whole == latent.numpy()).all((1, 2)))[0])
                for latent in batch.latents[row]
            ]
            times = batch.time[row].tolist()
            turned = -1 if at[3] < at[2] else 1
            assert [turned * (place - at[0]) for place in at] == times
            assert times[0] == 0.0 and np.diff(times[1:]).tolist() == [1.0, 1.0]
            gaps.add(times[1])
            backwards += turned < 0
    assert gaps == {1.0, 2.0, 3.0, 4.0, 5.0} and 0 < backwards < 80
    with pytest.raises(ValueError, match="the stage needs 9"):
        _latent_batches(folder, spread_share=0.5, spread_frames=9)


def test_an_epoch_shows_every_clip_once_over_all_processes(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "c", latents=True, clips=4)
    readers = [_latent_batches(folder, rank, 2, reversal=0.0) for rank in range(2)]
    shown = [
        reader._shuffled((step * 2 + rank) * 2 + i)
        for step in range(2)
        for rank, reader in enumerate(readers)
        for i in range(2)
    ]
    assert sorted(shown) == list(range(8))


def test_poses_are_relative_to_where_the_middle_frame_stands(tmp_path: Path) -> None:
    batch = _latent_batches(write_clips(tmp_path / "c", latents=True)).at(0)
    middle = batch.camera_from_anchor[:, 2]
    assert middle[:, :3, 3].abs().max() < 1e-12
    assert middle[:, 2, 0].abs().max() < 1e-12  # and where it looks, but level


def test_prefetching_keeps_the_order() -> None:
    class Numbers:
        def at(self, step: int) -> int:
            return step

    assert list(prefetch(Numbers(), range(3, 20), lambda x: 2 * x)) == list(range(6, 40, 2))
