"""From a dataset folder to a policy that finds the square in pictures it has not seen."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from calibration.poses import integrate_chunk
from calibration.storage import save_camera
from prophrl_models.policies.interface import ObservationBatch
from prophrl_models.policies.load import load_policy
from prophrl_models.policies.tiny import TinyConfig, TinyPolicy
from prophrl_models.training.loop import LoopOptions, Progress
from prophrl_models.training.sft import SftConfig, TrainingError, config_from, load_config, train_policy
from tests.helpers.reaches import CONVENTION, DOWN_EULER, INSTRUCTION, camera, places, reach

pytestmark = pytest.mark.timeout(400)  # the fixtures train; a busy machine takes its time

SMALL = TinyConfig(channels=16, width=32, cond_width=32, heads=2, maps=2, bf16=False)
LEARNING = SftConfig(
    batch_size=16, noise_samples=2, tiny=SMALL, loop=LoopOptions(steps=220, learning_rate=3e-3, warmup=20, ema=0.95)
)
BRIEF = replace(LEARNING, batch_size=4, loop=LoopOptions(steps=12, warmup=2, log_every=2, save_every=4))


@pytest.fixture(scope="module")
def trained(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_policy(dataset_folder, tmp_path_factory.mktemp("runs") / "reach", LEARNING, camera=camera())


def test_learned_policy_sees_where_to_go_in_new_pictures(trained: Path) -> None:
    policy = load_policy(trained)
    assert isinstance(policy, TinyPolicy)
    squares = places(12, seed=99)
    episodes = [reach(square) for square in squares]
    obs = ObservationBatch.of([episode.observation(t) for episode in episodes for t in (0, 6)])
    with torch.no_grad():
        waypoint = policy.predicted_waypoint_m(policy.encode(obs)).numpy()
    error_mm = 1000 * np.linalg.norm(waypoint[:, :2] - squares.repeat(2, axis=0), axis=1)
    assert np.median(error_mm) < 12.0


def test_learned_policy_moves_towards_the_square(trained: Path) -> None:
    policy = load_policy(trained)
    for square in places(6, seed=98):
        episode = reach(square)
        chunk = policy.act(ObservationBatch.of([episode.observation(4)]))[0].numpy()
        T_start = np.eye(4)
        T_start[:3, 3] = episode.state_T7[4, :3]
        moved = integrate_chunk(T_start, np.concatenate([chunk[:, :3], np.zeros((20, 4))], 1), CONVENTION)
        goal = np.array([*square, 0.02])
        before = np.linalg.norm(T_start[:3, 3] - goal)
        assert np.linalg.norm(moved[:, :3, 3] - goal, axis=1).min() < 0.4 * before
        assert chunk[0, 6] > 0.6 and chunk[:, 6].min() < 0.4  # open on the way, closed at the end


def test_checkpoint_carries_spec_and_provenance(trained: Path) -> None:
    spec = load_policy(trained).spec
    assert spec.convention is CONVENTION and spec.instructions == (INSTRUCTION,) and spec.control_rate_hz == 10.0
    policy = load_policy(trained)
    assert isinstance(policy, TinyPolicy)
    np.testing.assert_allclose(np.cos(policy.tiny.reference_euler), np.cos(DOWN_EULER), atol=1e-6)
    np.testing.assert_allclose(policy.camera.K.numpy(), camera().K, rtol=1e-6)
    assert not (trained.parent / "resume.safetensors").exists() and (trained.parent / "log.jsonl").is_file()


def test_interrupted_training_ends_with_the_same_weights(dataset_folder: Path, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 6:
            raise KeyboardInterrupt

    whole = train_policy(dataset_folder, tmp_path / "whole", BRIEF, camera=camera())
    with pytest.raises(KeyboardInterrupt):
        train_policy(dataset_folder, tmp_path / "cut", BRIEF, interrupt, camera=camera())
    assert not (tmp_path / "cut" / "policy").exists()
    cut = train_policy(dataset_folder, tmp_path / "cut", BRIEF, camera=camera())
    a, b = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=1e-5, msg=name)


def test_a_finished_run_is_not_trained_again_and_an_unfinished_one_keeps_its_settings(
    dataset_folder: Path, tmp_path: Path
) -> None:
    folder = train_policy(dataset_folder, tmp_path / "run", BRIEF, camera=camera())
    log, weights = ((folder.parent / name).read_bytes() for name in ("log.jsonl", "policy/model.safetensors"))
    with pytest.raises(TrainingError, match="holds a finished training; use a new output folder"):
        train_policy(dataset_folder, tmp_path / "run", BRIEF, camera=camera())
    assert ((folder.parent / "log.jsonl").read_bytes(), (folder / "model.safetensors").read_bytes()) == (log, weights)

    def interrupt(progress: Progress) -> None:
        if progress.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_policy(dataset_folder, tmp_path / "cut", BRIEF, interrupt, camera=camera())
    with pytest.raises(TrainingError, match=r"batch_size was \d+, is 3"):
        train_policy(dataset_folder, tmp_path / "cut", replace(BRIEF, batch_size=3), camera=camera())
    train_policy(dataset_folder, tmp_path / "cut", replace(BRIEF, threads=1), camera=camera())


def test_camera_comes_from_the_calibration_beside_the_episodes(dataset_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(dataset_folder, tmp_path / "dataset")
    with pytest.raises(TrainingError, match="calibrate the cell before recording"):
        train_policy(folder, tmp_path / "run", BRIEF)
    wide = replace(camera(), cx=camera().cx + 52, width=424)
    for episode in (folder / "episodes").iterdir():
        if episode.is_dir():
            save_camera(episode / "calibration.yaml", wide, serial="1234")
    policy = load_policy(train_policy(folder, tmp_path / "run", BRIEF))
    assert isinstance(policy, TinyPolicy)
    np.testing.assert_allclose(policy.camera.K.numpy(), camera().K, rtol=1e-6)
    np.testing.assert_allclose(policy.camera.T_camera_base.numpy(), camera().T_camera_base, atol=1e-6)


def test_configuration_file_overrides_only_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("batch_size: 8\nloop: {steps: 5, learning_rate: 1}\n")
    config = load_config(file)
    assert config.batch_size == 8 and config.loop.steps == 5 and config.loop.learning_rate == 1.0
    assert config.tiny == TinyConfig() and config.loop.ema == LoopOptions().ema


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"batchsize": 8}, "did you mean 'batch_size'"),
        ({"loop": {"steps": "many"}}, r"loop\.steps must be of type int, got 'many'"),
        ({"loop": {"steps": True}}, "of type int"),
        ({"tiny": 3}, r"tiny must be a mapping"),
    ],
)
def test_wrong_configuration_names_field_and_choices(raw: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        config_from(raw)


def test_missing_configuration_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nothing\.yaml"):
        load_config(tmp_path / "nothing.yaml")
