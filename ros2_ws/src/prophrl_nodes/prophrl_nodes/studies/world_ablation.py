"""An ablation of the world model as jobs: one training and one evaluation for each arm and seed.

OUT/study.json               what the study is about; a call with other settings is refused
OUT/settings/ARM.yaml        what an arm trains with
OUT/codec, OUT/latents       shared by all trainings, where none are given
OUT/runs/ARM/seed_0/         the run: prophet/ is its checkpoint, eval/ its evaluation
OUT/logs/                    what the commands said
OUT/report.html, .json       written anew after every evaluation
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import yaml
from safetensors import safe_open

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.split import held_out
from prophrl_models.prophet.ablate import Arm, arm_settings
from prophrl_models.prophet.ablate_report import write_ablation_report
from prophrl_models.prophet.ablate_result import AblationResult, ArmResult, read_run
from prophrl_models.prophet.checkpoint import PROVENANCE, WEIGHTS, is_prophet
from prophrl_models.prophet.codec import PROVENANCE as CODEC_PROVENANCE
from prophrl_models.prophet.evaluate import EvaluationSettings
from prophrl_models.prophet.train_open import CHECKPOINT_FOLDER
from prophrl_models.prophet.train_settings import ProphetTrainConfig
from prophrl_models.training.overrides import plain_settings
from prophrl_nodes.offline.stages import last_step
from prophrl_nodes.studies.ablation_jobs import Job, claim_study, prophrl


@dataclass(frozen=True)
class WorldStudy:
    """What is asked for.

    Attributes:
        datasets: to train on.
        out: folder of the study.
        config: what the first arm trains with, unless it leaves something out; ``loop.seed`` has no meaning.
        arms, seeds: every arm is trained with every seed.
        codec, latents, camera: as for ``prophrl prophet train``; without a codec the study trains one for all.
        measured_on: dataset whose held-out episodes are measured on.
        evaluation: how; its split is that of ``config``.
        threads: CPU threads of a training; 0: torch decides.
        device: of the evaluation.
    """

    datasets: tuple[Path, ...]
    out: Path
    config: ProphetTrainConfig
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    codec: Path | None = None
    latents: Path | None = None
    camera: Path | None = None
    measured_on: Path | None = None
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    threads: int = 0
    device: str = "auto"

    @property
    def dataset(self) -> Path:
        """The one that is measured on."""
        return self.measured_on or self.datasets[0]

    def run_folder(self, arm: str, seed: int) -> Path:
        return self.out / "runs" / arm / f"seed_{seed}"

    def settings_file(self, arm: str) -> Path:
        return self.out / "settings" / f"{arm}.yaml"

    @property
    def codec_folder(self) -> Path:
        return self.codec or self.out / "codec"


def prepare(study: WorldStudy) -> None:
    """Check everything that can be checked at once, claim the folder and write the arms' settings.

    Raises:
        AblationError, TrainingError: see ``arm_settings``.
        DatasetError: a dataset cannot be read.
        SplitError: no episode of ``dataset`` is held out.
        StudyChanged: the folder belongs to another study.
    """
    settings = arm_settings(study.config, study.arms)
    hashes = [Dataset(folder).content_hash for folder in study.datasets]
    measured = Dataset(study.dataset)
    held_out(measured, study.config.held_out, study.config.split_seed)
    base = plain_settings(study.config)
    base["loop"].pop("seed")
    facts = {
        "kind": "ablation of a world model",
        "datasets": hashes,
        "measured_on": measured.content_hash,
        "settings": base,
        "codec": str(study.codec.resolve()) if study.codec else "",
        "camera": str(study.camera.resolve()) if study.camera else "",
        "arms": [arm.name for arm in study.arms],
        "seeds": list(study.seeds),
    }
    claim_study(study.out, facts, may_grow=("arms", "seeds"))
    for name, config in settings.items():
        file = study.settings_file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(plain_settings(config), sort_keys=False), encoding="utf-8")


def jobs_of(study: WorldStudy) -> list[Job]:
    """All jobs: the codec, then every arm with the first seed, with the second, and so on."""
    jobs = [] if study.codec else [_codec_job(study)]
    for seed in study.seeds:
        for arm in study.arms:
            jobs += [_train_job(study, arm.name, seed), _eval_job(study, arm.name, seed)]
    return jobs


def result_of(study: WorldStudy, failed: Mapping[str, str]) -> AblationResult:
    """What is measured so far.

    Raises:
        AblationError: nothing, or evaluations that cannot be compared.
    """
    found, missing = [], []
    for arm in study.arms:
        runs = []
        for seed in study.seeds:
            run = (
                read_run(study.run_folder(arm.name, seed), study.out, seed)
                if is_measured(study, arm.name, seed)
                else None
            )
            if run is None:
                missing.append(f"{arm.name}, seed {seed}")
            else:
                runs.append(run)
        if runs:
            weights = study.run_folder(arm.name, runs[0].seed) / CHECKPOINT_FOLDER / WEIGHTS
            found.append(ArmResult(arm, tuple(runs), parameters(weights)))
    return AblationResult(tuple(found), study.seeds, tuple(missing), dict(failed))


def write_result(study: WorldStudy, failed: Mapping[str, str]) -> Path:
    """Write the page of what is measured so far; errors as ``result_of``."""
    measured = Dataset(study.dataset)
    provenance = {
        "datasets": ", ".join(f"{f.name} {Dataset(f).content_hash[:16]}" for f in study.datasets),
        "measured on": f"{measured.folder.name}, content hash {measured.content_hash}",
        "training": f"size {study.config.size}, {study.config.loop.steps} steps of {study.config.batch_size} clips",
        "changed": ", ".join(f"network.{name} {value}" for name, value in study.config.network.items()) or "nothing",
        "arms": ", ".join(str(study.settings_file(arm.name).relative_to(study.out)) for arm in study.arms),
    }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return write_ablation_report(result_of(study, failed), study.out, provenance=provenance, created_at=now)


def is_trained(folder: Path) -> bool:
    """Whether a run's checkpoint is written and nothing is left to resume."""
    return (folder / CHECKPOINT_FOLDER / PROVENANCE).is_file() and not any(folder.glob("resume*.safetensors"))


def is_measured(study: WorldStudy, arm: str, seed: int) -> bool:
    """Whether a training was evaluated as the study wants it now."""
    folder = study.run_folder(arm, seed)
    page, facts = folder / "eval" / "report.html", folder / "eval" / "report.json"
    if not (is_trained(folder) and page.is_file() and facts.is_file()):
        return False
    said = json.loads(facts.read_text(encoding="utf-8"))
    return bool(
        said["settings"] == asdict(study.evaluation)
        and said["dataset"]["content_hash"] == Dataset(study.dataset).content_hash
    )


def has_codec(folder: Path) -> bool:
    """Whether a folder is a finished codec, or a world model whose codec can be taken."""
    return (folder / CODEC_PROVENANCE).is_file() or is_prophet(folder)


def parameters(weights: Path) -> int:
    """Numbers in a safetensors file, from its header."""
    with safe_open(str(weights), framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no mapping)


def _codec_job(study: WorldStudy) -> Job:
    folder = study.codec_folder
    settings = study.settings_file(study.arms[0].name)
    command = prophrl("prophet", "codec", *study.datasets, folder, "--config", settings, *_threads(study))
    return Job(
        "codec for all arms: training",
        command,
        study.out / "logs" / "codec.log",
        is_done=(folder / CODEC_PROVENANCE).is_file,
        step=lambda: last_step(folder),
        steps=study.config.codec.loop.steps,
    )


def _train_job(study: WorldStudy, arm: str, seed: int) -> Job:
    folder = study.run_folder(arm, seed)
    options: list[object] = ["--config", study.settings_file(arm), "--seed", seed, "--codec", study.codec_folder]
    options += ["--latents", study.latents or study.out / "latents", *_threads(study)]
    if study.camera:
        options += ["--camera", study.camera]
    return Job(
        f"{arm}, seed {seed}: training",
        prophrl("prophet", "train", *study.datasets, folder, *options),
        study.out / "logs" / f"{arm}_{seed}_train.log",
        is_done=lambda: is_trained(folder),
        is_ready=lambda: has_codec(study.codec_folder),
        step=lambda: last_step(folder),
        steps=study.config.loop.steps,
    )


def _eval_job(study: WorldStudy, arm: str, seed: int) -> Job:
    folder, e = study.run_folder(arm, seed), study.evaluation
    numbers = {
        "--chunks": e.chunks,
        "--windows": e.windows,
        "--episodes": e.episodes,
        "--held-out": e.held_out,
        "--split-seed": e.split_seed,
        "--noise-seeds": e.noise_seeds,
        "--seed": e.seed,
        "--batch": e.batch,
        "--videos": e.videos,
        "--device": study.device,
    }
    options = [word for pair in numbers.items() for word in pair]
    options += ["--steps", e.passes] if e.passes else []
    switches = [] if e.sensitivity else ["--no-sensitivity"]
    switches += ["--lpips"] if e.lpips else []
    named, to = f"{arm}={folder / CHECKPOINT_FOLDER}", folder / "eval"
    command = prophrl("prophet", "eval", named, study.dataset, "--out", to, *options, *switches)
    return Job(
        f"{arm}, seed {seed}: evaluation",
        command,
        study.out / "logs" / f"{arm}_{seed}_eval.log",
        is_done=lambda: is_measured(study, arm, seed),
        is_ready=lambda: is_trained(folder),
    )


def _threads(study: WorldStudy) -> Sequence[object]:
    return ["--threads", study.threads] if study.threads else []
