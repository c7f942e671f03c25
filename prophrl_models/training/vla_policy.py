"""The policy that a big training run starts with: published weights, an earlier checkpoint, or a random small one."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from prophrl_models.data.normalise import Normalisation
from prophrl_models.policies.interface import FlowPolicy, PolicySpec, Scaling
from prophrl_models.policies.load import builder, load_policy
from prophrl_models.policies.official import OFFICIAL
from prophrl_models.training.checkpoint import PROVENANCE, read_checkpoint
from prophrl_models.training.frames import SCALE_FLOOR, policy_scalings
from prophrl_models.training.published_scaling import PublishedStatistics
from prophrl_models.training.rows import RowFormat
from prophrl_models.training.settings import TrainingError

ScalingMode = Literal["quantile", "rms", "published"]
ARCHITECTURES: dict[str, str] = {
    "pi05": "Pi05Config",
    "vla_adapter": "VlaAdapterConfig",
    "openvla_oft": "OpenVlaOftConfig",
}
"""Kinds of big policies and the dataclass of their sizes, in the module that ``policies.official`` names."""
HEADER_BYTES = 1 << 20
TINY_PROMPT, TINY_VOCABULARY = 192, 384
PROMPT_WORDS = "Task: , State: ;\nAction: In: What action should the robot take to ?\nOut:"


@dataclass(frozen=True)
class Origin:
    """Where a run's first weights come from; part of what a resumed run must agree on.

    Attributes:
        kind: kind of policy.
        init: folder of published weights.
        resume_from: checkpoint folder of an earlier training.
        tiny_size: random weights in a size for tests.
    """

    kind: str
    init: Path | None = None
    resume_from: Path | None = None
    tiny_size: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ARCHITECTURES:
            raise TrainingError(f"unknown policy {self.kind!r}; choose one of tiny, {', '.join(ARCHITECTURES)}")
        given = [name for name in ("init", "resume_from", "tiny_size") if getattr(self, name)]
        if len(given) != 1:
            raise TrainingError(
                f"a {self.kind} policy starts from exactly one of --init OFFICIAL_FOLDER, --resume-from CHECKPOINT and "
                f"--tiny-size, got {', '.join(given) or 'none'}; a full-size policy with random weights learns nothing"
            )

    def identity(self) -> dict[str, str]:
        """What the weights are, for provenance and for comparing runs; files are not read in full.

        Raises:
            TrainingError: no such folder.
        """
        if self.tiny_size:
            return {"random": "tiny size"}
        folder = self.init or self.resume_from
        assert folder is not None
        if not folder.is_dir():
            raise TrainingError(f"no folder at {folder}; give the one that holds the weights")
        if self.resume_from is not None:
            recorded = read_checkpoint(folder).provenance["sha256"]
            return {"checkpoint": folder.name, "sha256": str(recorded["model.safetensors"])}
        return {"official": folder.name, "outline": outline(folder)}


def outline(folder: Path) -> str:
    """SHA-256 over names, sizes and first megabytes of a folder's files.

    The beginning of a safetensors file lists all names and shapes; hashing tens of gigabytes would take minutes.
    """
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.iterdir() if f.is_file()):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(HEADER_BYTES))
    return digest.hexdigest()


def new_spec(
    form: RowFormat,
    normalisation: Normalisation,
    instructions: Sequence[str],
    num_steps: int,
    mode: ScalingMode,
    published: PublishedStatistics | None = None,
) -> PolicySpec:
    """The spec of a policy that is trained on rows of this format; ``published`` goes with the mode of that name.

    Raises:
        TrainingError: published statistics that cannot be used.
    """
    action, state = vla_scalings(normalisation, mode)
    if mode == "published":
        action = (published or PublishedStatistics()).action_scaling()
    return PolicySpec(
        convention=form.convention,
        action_scaling=action,
        state_scaling=state,
        control_rate_hz=form.control_rate_hz,
        action_dim=form.action_dim,
        chunk=form.chunk,
        num_steps=num_steps,
        state_dim=form.state_dim,
        image_height=form.image_height,
        image_width=form.image_width,
        instructions=tuple(instructions),
        state_source=form.state_source,
    )


def vla_scalings(normalisation: Normalisation, mode: ScalingMode) -> tuple[Scaling, Scaling]:
    """(action, state) scalings.

    "quantile" maps 1 % ... 99 % of the data to -1 ... 1, as the published policies were trained (openpi, OpenVLA), with
    a floor for directions that are hardly used; "rms" is the tiny policy's. Openings 0 ... 1 become -1 ... 1 in both.
    "published" is "quantile" here: only actions have published units (``published_scaling``).
    """
    if mode == "rms":
        return policy_scalings(normalisation)
    floors = (*SCALE_FLOOR, 0.5)
    scalings = []
    for feature in (normalisation.action, normalisation.state):
        offset, scale = feature.scaling("quantile")
        scale = tuple(max(s, floor) for s, floor in zip(scale, floors, strict=True))
        scalings.append(Scaling((*offset[:6], 0.5), (*scale[:6], 0.5)))
    return scalings[0], scalings[1]


def open_policy(origin: Origin, spec: PolicySpec, options: Mapping[str, Any], seed: int) -> FlowPolicy:
    """The policy with its first weights, on the CPU; what is not loaded is drawn from ``seed``.

    Args:
        options: sizes that differ from the published ones, by field of the policy's configuration.

    Raises:
        TrainingError: the checkpoint is of another kind, or an option that this policy does not have.
        OfficialWeightsError, CheckpointError: see ``policies.official`` and ``checkpoint``.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if origin.resume_from is not None:
            policy = load_policy(origin.resume_from)
            if policy.kind != origin.kind:
                raise TrainingError(
                    f"{origin.resume_from} is a {policy.kind} policy, asked for was {origin.kind}; pass --policy "
                    f"{policy.kind}"
                )
            return policy
        module = importlib.import_module(OFFICIAL[origin.kind])
        sizes = getattr(module, ARCHITECTURES[origin.kind])
        if origin.init is not None:
            policy, report = module.from_official(origin.init, spec, config=_with(sizes.full(), options))
            report.raise_for_gaps()
            return policy  # type: ignore[no-any-return]
        small = dataclasses.asdict(_with(sizes.tiny(), options))
        # The tests' sizes know the tests' sentences; here any instruction must find room.
        small.update({name: TINY_PROMPT for name in ("prompt_tokens", "prompt_length") if name in small})
        small.get("language", small)["vocabulary"] = TINY_VOCABULARY
        return builder(origin.kind)(spec, small, {"tokenizer.json": tiny_tokenizer(spec.instructions)})


def _with(sizes: Any, options: Mapping[str, Any]) -> Any:
    known = [f.name for f in dataclasses.fields(sizes)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TrainingError(
            f"policy_options: unknown {', '.join(unknown)}; {type(sizes).__name__} has {', '.join(known)}"
        )
    return dataclasses.replace(sizes, **options)


def check_fits(spec: PolicySpec, form: RowFormat) -> None:
    """Refuse rows that mean something else than the policy's actions.

    Raises:
        TrainingError: names every difference and what to do about the first.
    """
    pairs = {
        "convention": (spec.convention.name, form.convention.name, "convert the dataset to the policy's convention"),
        "action dimension": (spec.action_dim, form.action_dim, "train a new policy with --init for these actions"),
        "state dimension": (spec.state_dim, form.state_dim, "train a new policy with --init for these states"),
        "chunk": (spec.chunk, form.chunk, f"set frames.chunk to {spec.chunk}"),
        "control rate (Hz)": (spec.control_rate_hz, form.control_rate_hz, "build the dataset at the policy's rate"),
        "image size": (
            f"{spec.image_height}x{spec.image_width}",
            f"{form.image_height}x{form.image_width}",
            "give the dataset images of the policy's size",
        ),
        "state source": (spec.state_source, form.state_source, f"set state_source to {spec.state_source}"),
    }
    wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if wrong:
        said = "; ".join(f"{name}: the policy has {a}, the data have {b}" for name, (a, b, _) in wrong.items())
        raise TrainingError(f"the data do not fit the policy: {said}. To go on, {next(iter(wrong.values()))[2]}")


def check_statistics(folder: Path, normalisation: Normalisation) -> None:
    """Refuse to continue a checkpoint with other statistics than those its scalings were made from.

    Raises:
        TrainingError: the checkpoint is of another dataset.
    """
    trained_on = read_checkpoint(folder).normalisation.dataset_hash
    if trained_on != normalisation.dataset_hash:
        raise TrainingError(
            f"{folder} was trained with the statistics of dataset {trained_on[:12]} ({PROVENANCE} there says more), "
            f"this one is {normalisation.dataset_hash[:12]}: its numbers would mean other metres. Continue on that "
            "dataset, or start from published weights with --init"
        )


def tiny_tokenizer(instructions: Sequence[str]) -> bytes:
    """A ``tokenizer.json`` below ``TINY_VOCABULARY`` that can spell anything, with whole words for these texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>", "<bos>", "<eos>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*instructions, PROMPT_WORDS], trainer)
    return str(tokenizer.to_str()).encode()
