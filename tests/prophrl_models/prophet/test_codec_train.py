"""Training of the small codec on a drawn dataset."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.split import SplitError, held_out
from prophrl_models.prophet.codec import load_codec
from prophrl_models.prophet.codec_config import CodecConfig
from prophrl_models.prophet.codec_pictures import Pictures
from prophrl_models.prophet.codec_small import SmallCodec
from prophrl_models.prophet.codec_train import CodecTrainOptions, codec_loss, train_codec
from prophrl_models.prophet.trained_on import TrainedOn
from prophrl_models.training.checkpoint import CheckpointError
from prophrl_models.training.loop import LoopOptions, Progress
from prophrl_models.training.settings import TrainingError
from tests.helpers.prophet_data import write_reaches
from tests.helpers.reaches import camera, write_dataset

TINY = CodecConfig(
    latent_channels=8,
    encoder_widths=(16, 16, 24),
    decoder_widths=(16, 16, 24),
    encoder_blocks=(0, 0, 1),
    decoder_blocks=(0, 0, 1),
)
LOOP = LoopOptions(steps=12, learning_rate=1e-3, warmup=2, weight_decay=0.0, ema=0.9, log_every=1, save_every=3)
OPTIONS = CodecTrainOptions(
    image_height=32, image_width=48, batch=4, crop=16, statistics_groups=12, bfloat16=False, loop=LOOP
)


@pytest.fixture(scope="module")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("reaches") / "dataset", count=3)


def _losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    output = tmp_path_factory.mktemp("run") / "codec"
    return output, train_codec([dataset_folder], output, TINY, OPTIONS, held_out=0.1)


def test_training_leaves_a_codec_with_normal_latents_and_its_measurements(
    trained: tuple[Path, dict[str, float]], dataset_folder: Path
) -> None:
    output, measured = trained
    codec, provenance = load_codec(output)
    assert provenance["measured"] == measured and len(provenance["dataset_hashes"]) == 1
    assert not list(output.glob("resume*"))
    pictures = Pictures([dataset_folder], 32, 48, held_out=0.1)
    frames = np.stack([pictures.group(np.random.default_rng(i)) for i in range(40)])
    latent = codec.encode_groups(torch.from_numpy(frames))
    torch.testing.assert_close(latent.mean(dim=(0, 2, 3)), torch.zeros(8), atol=0.35, rtol=0)
    torch.testing.assert_close(latent.std(dim=(0, 2, 3)), torch.ones(8), atol=0.35, rtol=0)


def test_measurements_are_those_of_the_saved_codec(
    trained: tuple[Path, dict[str, float]], dataset_folder: Path
) -> None:
    """A second way: whole held-out pictures encoded and decoded as clips of five frames."""
    output, measured = trained
    codec, _ = load_codec(output)
    pictures = Pictures([dataset_folder], 32, 48, held_out=0.1)
    squares = []
    for seed in range(30):
        group = torch.from_numpy(pictures.group(np.random.default_rng(seed), held_out=True))[None]
        clip = torch.cat([group[:, :1], group], dim=1)
        squares.append(float((codec.decode(codec.encode(clip))[:, 1:].float() - group.float()).square().mean()))
    assert 10 * np.log10(255**2 / np.mean(squares)) == pytest.approx(measured["psnr_db"], abs=0.5)


def test_minimising_the_loss_makes_pictures_better(dataset_folder: Path) -> None:
    torch.manual_seed(0)
    codec, pictures = SmallCodec(TINY), Pictures([dataset_folder], 32, 48)
    frames = torch.from_numpy(np.stack([pictures.group(np.random.default_rng(i))[:, :24, :24] for i in range(4)]))
    optimiser = torch.optim.Adam(codec.parameters(), lr=4e-3)
    errors = []
    for step in range(60):
        losses = codec_loss(codec, frames, OPTIONS, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        errors.append(float(losses["error"]))
    assert np.mean(errors[-5:]) < 0.4 * errors[0]


def test_a_killed_run_continues_on_the_same_curve(
    trained: tuple[Path, dict[str, float]], dataset_folder: Path, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_codec([dataset_folder], tmp_path / "codec", TINY, OPTIONS, held_out=0.1, report=stop)
    assert (tmp_path / "codec" / "resume.safetensors").is_file()
    other = replace(OPTIONS, latent_noise=0.3)
    with pytest.raises(CheckpointError, match="other data or settings"):
        train_codec([dataset_folder], tmp_path / "codec", TINY, other, held_out=0.1)
    with pytest.raises(CheckpointError, match="other data or settings"):
        train_codec([dataset_folder], tmp_path / "codec", TINY, OPTIONS, held_out=0.1, split_seed=7)
    measured = train_codec([dataset_folder], tmp_path / "codec", TINY, OPTIONS, held_out=0.1)
    np.testing.assert_allclose(_losses(tmp_path / "codec"), _losses(trained[0]), rtol=1e-5)
    assert measured == pytest.approx(trained[1], abs=1e-3)


def test_a_finished_folder_and_published_codecs_are_refused(
    trained: tuple[Path, dict[str, float]], dataset_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="finished codec"):
        train_codec([dataset_folder], trained[0], TINY, OPTIONS)
    with pytest.raises(TrainingError, match="published weights"):
        train_codec([dataset_folder], tmp_path, CodecConfig(kind="wan"), OPTIONS)


def test_small_things_weigh_more_than_their_area() -> None:
    """The same error in a small bright square costs more than spread over the flat background."""
    torch.manual_seed(0)
    frames = torch.full((1, 4, 32, 32, 3), 60, dtype=torch.uint8)
    frames[:, :, 12:17, 12:17] = 220

    def loss_of(error: np.ndarray[Any, Any]) -> float:
        class Fixed(SmallCodec):
            pass

        codec = Fixed(TINY)
        target = frames.float() / 127.5 - 1.0
        wrong = target + torch.from_numpy(error).float()[None, None, :, :, None]
        output = wrong.permute(0, 1, 4, 2, 3).reshape(1, 12, 32, 32)
        codec.decoder.forward = lambda _: output  # type: ignore[method-assign]
        return float(codec_loss(codec, frames, OPTIONS, torch.Generator().manual_seed(0))["loss"].detach())

    at_object = np.zeros((32, 32))
    at_object[12:17, 12:17] = 0.5
    spread = np.full((32, 32), at_object.mean())
    assert loss_of(np.zeros((32, 32))) < 0.01  # the penalty on latents is left
    assert loss_of(at_object) > 3.0 * loss_of(spread)


def test_what_the_world_model_holds_out_is_not_trained_on(
    trained: tuple[Path, dict[str, float]], dataset_folder: Path
) -> None:
    dataset = Dataset(dataset_folder)
    split = held_out(dataset, 0.1)
    names = [row.episode_id for row in dataset.table]
    pictures = Pictures([dataset_folder, dataset_folder], 32, 48, held_out=0.1)
    for side, positions in ((pictures.training, split.train), (pictures.held_out, split.held_out)):
        assert [shots.episode.metadata.episode_id for shots in side] == 2 * [names[position] for position in positions]
    provenance = load_codec(trained[0])[1]
    assert provenance["held_out"] == {"fraction": 0.1, "seed": 0}
    said = [TrainedOn.of_provenance(provenance, "it").used(name, "any") for name in names]
    assert said == ["yes" if position in split.train else "no" for position in range(3)]


def test_without_a_split_all_is_trained_on_and_measured(dataset_folder: Path) -> None:
    pictures = Pictures([dataset_folder], 32, 48)
    assert len(pictures.training) == 3 and pictures.held_out is pictures.training
    with pytest.raises(SplitError, match="none is left to hold out"):
        Pictures([dataset_folder], 32, 48, held_out=1e-9)


def test_a_given_camera_serves_episodes_without_a_calibration_and_belongs_to_the_run(tmp_path: Path) -> None:
    write_reaches(tmp_path / "seen", 2)
    write_reaches(tmp_path / "blind", 2, calibrated=False)
    row = Dataset(tmp_path / "blind").table[0]  # its own calibration comes first
    shutil.copy(tmp_path / "seen" / row.folder / "calibration.yaml", tmp_path / "blind" / row.folder)
    given = replace(camera(), cx=camera().cx + 40.0)
    without, having = (Pictures([tmp_path / "blind"], 32, 48, view) for view in (None, given))
    assert (without.without_camera, having.without_camera) == (1, 0)
    found = [shots.camera for shots in having.training]
    places = {round(view.cx, 3) for view in found if view is not None}
    assert places == {round(view.resized(48, 32).cx, 3) for view in (camera(), given)}

    class Cut(RuntimeError):
        pass

    def cut(progress: Progress) -> None:
        if progress.step == 2:
            raise Cut

    brief = replace(OPTIONS, loop=replace(OPTIONS.loop, steps=3, save_every=1, log_every=1))
    with pytest.raises(Cut):
        train_codec([tmp_path / "blind"], tmp_path / "run", TINY, brief, camera=given, report=cut)
    with pytest.raises(CheckpointError, match="other"):
        train_codec([tmp_path / "blind"], tmp_path / "run", TINY, brief)
    train_codec([tmp_path / "blind"], tmp_path / "run", TINY, brief, camera=given)
    assert load_codec(tmp_path / "run")[1]["episodes_without_camera"] == 0


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        replace(OPTIONS, crop=20)
    with pytest.raises(ValueError, match=r"shares lie in 0\.\.1"):
        replace(OPTIONS, still_share=1.5)
