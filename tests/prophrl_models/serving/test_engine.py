"""An answer depends on the request alone, and equals what the policy itself samples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prophrl_models.data.normalise import FeatureStatistics, Normalisation
from prophrl_models.policies import chunking
from prophrl_models.policies.chunking import Committed, guided_sample
from prophrl_models.policies.interface import FlowPolicy, Inputs, ObservationBatch, UnknownInstruction
from prophrl_models.serving.engine import (
    PolicyEngine,
    PolicyRequest,
    batch_sizes,
    build_policy,
    choose_device,
    choose_precision,
    chunk_seed,
)
from prophrl_models.serving.protocol import ReceivedObservation
from prophrl_models.serving.stages import EagerStages, pad_rows, trim_text, with_constant_scalings
from prophrl_models.training.checkpoint import CheckpointError, CheckpointFiles
from tests.helpers import pi05, prismatic_policies
from tests.helpers.served_policy import CHUNK, ROUNDING, observation, write_checkpoint


def test_an_answer_is_what_the_policy_samples_from_the_noise_of_its_seed(engine: PolicyEngine) -> None:
    answer = engine.answer([PolicyRequest(observation(1), seed=5)])[0]
    noise = torch.randn((CHUNK, 7), generator=torch.Generator().manual_seed(5))[None]
    expected, _ = engine.policy.sample_actions(ObservationBatch.of([observation(1)]), noise)
    assert answer.actions_CHD.dtype == np.float32
    assert np.array_equal(answer.actions_CHD, expected[0].numpy())


def test_seed_picture_state_and_words_all_matter(engine: PolicyEngine) -> None:
    def ask(request: PolicyRequest) -> np.ndarray:
        return engine.answer([request])[0].actions_CHD

    base = PolicyRequest(observation(1), seed=5)
    first = ask(base)
    assert np.array_equal(first, ask(base))
    see = observation(1)
    for other in (
        replace(base, seed=6),
        replace(base, observation=replace(see, image_HW3=255 - see.image_HW3)),
        replace(base, observation=replace(see, state_7=see.state_7 + 0.1)),
        replace(base, observation=replace(see, instruction="pull a tissue")),
    ):
        assert not np.allclose(first, ask(other), atol=1e-7)


def test_company_in_a_batch_changes_an_answer_by_rounding_only(engine: PolicyEngine) -> None:
    requests = [PolicyRequest(observation(i), seed=i) for i in range(4)]
    together = engine.answer(requests)
    for request, answer in zip(requests, together, strict=True):
        alone = engine.answer([request])[0]
        np.testing.assert_allclose(answer.actions_CHD, alone.actions_CHD, atol=ROUNDING)
        assert answer.timing["batch"] == 4.0


def test_stages_add_up_to_the_total(engine: PolicyEngine) -> None:
    timing = engine.answer([PolicyRequest(observation(1), seed=0)])[0].timing
    assert set(timing) == {"prepare_ms", "encode_ms", "sample_ms", "total_ms", "batch"}
    assert timing["total_ms"] == pytest.approx(sum(timing[f"{s}_ms"] for s in ("prepare", "encode", "sample")))


def test_a_chunk_that_continues_another_keeps_what_is_frozen(engine: PolicyEngine) -> None:
    free = PolicyRequest(observation(1), seed=5)
    rows = engine.answer([replace(free, seed=9)])[0].actions_CHD[:4]
    continuing = replace(free, committed=Committed(rows, 2))
    alone = engine.answer([free])[0].actions_CHD
    mixed = engine.answer([continuing, free])
    assert np.array_equal(mixed[0].actions_CHD[:2], rows[:2])
    assert np.abs(mixed[0].actions_CHD - alone).max() > 1e-5
    np.testing.assert_allclose(mixed[1].actions_CHD, alone, atol=ROUNDING)


def test_what_the_policy_was_not_made_for_is_refused_with_the_difference(engine: PolicyEngine) -> None:
    see = observation(1)
    with pytest.raises(UnknownInstruction, match=r"dance.*pull a tissue"):
        engine.check(PolicyRequest(replace(see, instruction="dance"), 0))
    with pytest.raises(ValueError, match="not finite"):
        engine.check(PolicyRequest(replace(see, state_7=np.full(7, np.nan, dtype=np.float32)), 0))
    with pytest.raises(ValueError, match="committed actions need shape"):
        engine.check(PolicyRequest(see, 0, Committed(np.zeros((CHUNK + 1, 7), dtype=np.float32), 0)))
    with pytest.raises(ValueError, match="committed actions need shape"):
        engine.check(PolicyRequest(see, 0, Committed(np.zeros((2, 6), dtype=np.float32), 0)))
    with pytest.raises(ValueError, match="1 to 4 requests, got 5"):
        engine.answer([PolicyRequest(see, 0)] * 5)


def test_warming_up_measures_single_answers(engine: PolicyEngine) -> None:
    warm = engine.warm_up(runs=3)
    assert warm.free.summary().count == 2 and warm.guided.summary().count == 0


def test_warming_up_for_real_time_chunking_guides_one_chunk_of_each_batch_size(
    engine: PolicyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    guided: list[int] = []
    free: list[int] = []

    def counted(policy: FlowPolicy, cond: Any, committed: list[Committed | None], **options: Any) -> torch.Tensor:
        assert all(row is not None and 0 < row.frozen < len(row.actions_MD) for row in committed)
        guided.append(len(committed))
        return guided_sample(policy, cond, committed, **options)

    def sampled(cond: Any, noise: torch.Tensor) -> torch.Tensor:
        free.append(len(noise))
        return denoise(cond, noise)

    denoise = engine._stages.denoise
    monkeypatch.setattr(chunking, "guided_sample", counted)
    monkeypatch.setattr(engine._stages, "denoise", sampled)
    warm = engine.warm_up(runs=2, guided=True)
    assert warm.free.summary().count == warm.guided.summary().count == 1, "guided answers are slower, counted apart"
    assert guided == free == [size for size in batch_sizes(engine.max_batch) for _ in range(2)]
    engine.warm_up(runs=2)
    assert len(guided) == 2 * len(batch_sizes(engine.max_batch)), "only where it is asked for"


def test_two_checkpoints_have_one_id_exactly_when_their_files_are_equal(
    engine: PolicyEngine, served_checkpoint: Path, tmp_path: Path
) -> None:
    assert PolicyEngine.load(served_checkpoint, "cpu").checkpoint_id == engine.checkpoint_id
    assert PolicyEngine.load(write_checkpoint(tmp_path / "same"), "cpu").checkpoint_id == engine.checkpoint_id
    assert PolicyEngine.load(write_checkpoint(tmp_path / "other", seed=1), "cpu").checkpoint_id != engine.checkpoint_id


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no"):
        PolicyEngine.load(tmp_path)


def test_runs_and_chunks_share_no_noise() -> None:
    seeds = {chunk_seed(run, index) for run in range(50) for index in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert chunk_seed(3, 4) == chunk_seed(3, 4)


def large(kind: str) -> FlowPolicy:
    """A large policy at its smallest size; every weight is random, and the same each time."""
    return pi05.policy() if kind == "pi05" else prismatic_policies.policy(kind)


def in_precision(kind: str, precision: str) -> PolicyEngine:
    """Its engine, as ``load`` would build it from a checkpoint."""
    policy, nothing = large(kind), FeatureStatistics((), 0, (), (), (), (), (), ())
    files = CheckpointFiles(
        Path("none"),
        kind,
        json.loads(json.dumps(policy.config())),
        policy.spec,
        policy.state_dict(),
        Normalisation(nothing, nothing, "none"),
        {},
        policy.assets(),
    )
    cpu = torch.device("cpu")
    return PolicyEngine(build_policy(files, choose_precision(precision, kind, files.architecture, cpu)), cpu)


def fitting(engine: PolicyEngine, seed: int) -> ReceivedObservation:
    """A random observation of the size that an engine wants."""
    see, spec = observation(seed), engine.spec
    image = np.ascontiguousarray(see.image_HW3[: spec.image_height, : spec.image_width])
    return ReceivedObservation(image, see.state_7, spec.instructions[0] if spec.instructions else "put the cube down")


KINDS = ("pi05", "vla_adapter", "openvla_oft")


@pytest.mark.parametrize("kind", KINDS)
def test_large_policies_answer_as_they_sample_themselves(kind: str) -> None:
    """Prompts are cut to what they use here and padded to the longest there: no more than rounding may differ."""
    engine = PolicyEngine(large(kind), torch.device("cpu"), max_batch=2)
    see = [fitting(engine, seed) for seed in range(2)]
    answers = engine.answer([PolicyRequest(see[0], 5), PolicyRequest(see[1], 6)])
    noise = [torch.randn(engine.policy.chain_shape, generator=torch.Generator().manual_seed(s)) for s in (5, 6)]
    expected, _ = large(kind).sample_actions(ObservationBatch.of(see), torch.stack(noise))
    scale = np.array(engine.spec.action_scaling.scale)
    for answer, chunk in zip(answers, expected.numpy(), strict=True):
        np.testing.assert_allclose(answer.actions_CHD / scale, chunk / scale, atol=2e-4)


def test_warming_up_sees_every_length_of_prompt_that_states_and_instructions_make(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU a new length is recorded at its first use: not while the arm waits for the answer."""
    policy = large("pi05")
    words = ("stop", "put the cube down and pick it up again")
    policy.spec = replace(policy.spec, instructions=words)
    engine = PolicyEngine(policy, torch.device("cpu"))
    lengths: list[int] = []
    encode = engine._stages.encode
    monkeypatch.setattr(engine._stages, "encode", lambda inputs: lengths.append(inputs.text.shape[1]) or encode(inputs))
    engine.warm_up(runs=1)
    warm = set(lengths)
    assert len(warm) >= 2
    middle, scale = (
        np.array(values, np.float32) for values in (policy.spec.state_scaling.offset, policy.spec.state_scaling.scale)
    )
    for seed in range(20):
        state = middle + scale * np.random.default_rng(seed).uniform(-1.0, 1.0, 7).astype(np.float32)
        for instruction in words:
            engine.answer([PolicyRequest(replace(fitting(engine, seed), state_7=state, instruction=instruction), 0)])
    assert set(lengths) == warm


@pytest.mark.parametrize("kind", KINDS)
def test_large_policies_can_continue_a_chunk(kind: str) -> None:
    engine = PolicyEngine(large(kind), torch.device("cpu"))
    rows = np.tile(np.array([[0.001] * 6 + [0.5]], dtype=np.float32), (3, 1))
    answer = engine.answer([PolicyRequest(fitting(engine, 1), 5, Committed(rows, 2))])[0]
    assert np.array_equal(answer.actions_CHD[:2], rows[:2])
    assert np.isfinite(answer.actions_CHD).all()


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_halves_the_backbone_and_changes_answers_little(kind: str) -> None:
    full, half = (in_precision(kind, precision) for precision in ("float32", "bfloat16"))
    assert {p.dtype for p in full.policy.parameters()} == {torch.float32}
    sizes = {
        d: sum(p.numel() for p in half.policy.parameters() if p.dtype == d) for d in (torch.bfloat16, torch.float32)
    }
    assert sizes[torch.bfloat16] > sizes[torch.float32] > 0
    assert all(b.dtype != torch.bfloat16 for b in half.policy.buffers())
    request = PolicyRequest(fitting(full, 1), 5)
    difference = half.answer([request])[0].actions_CHD - full.answer([request])[0].actions_CHD
    assert 0.0 < np.abs(difference / np.array(full.spec.action_scaling.scale)).mean() < 0.1


class Recordable(TorchDispatchMode):
    """Notes what a CUDA graph cannot hold: looks at a value, shapes that depend on one, numbers out of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh"):
            self.found.add(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_what_runs_between_inputs_and_actions_can_be_recorded(kind: str) -> None:
    engine = PolicyEngine(large(kind), torch.device("cpu"))
    inputs = engine.policy.prepare(ObservationBatch.of([fitting(engine, 1)]))
    noise = torch.zeros((1, *engine.policy.chain_shape))
    stages = EagerStages(engine.policy)
    with torch.no_grad():
        stages.denoise(stages.encode(inputs), noise)  # the first run makes constants
        with Recordable() as seen:
            stages.denoise(stages.encode(inputs), noise)
        assert not seen.found
        with Recordable() as seen:
            engine.spec.action_scaling.restore(noise[..., :7])
            bool(noise.any())
        assert seen.found == {"_local_scalar_dense", "lift_fresh"}


def test_choices_are_checked(served_checkpoint: Path) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    stored = {"weights": "float32", "depth": 3}
    assert choose_precision("auto", "pi05", stored, gpu) == {"weights": "bfloat16", "depth": 3}
    assert choose_precision("auto", "pi05", stored, cpu) == stored
    assert choose_precision("auto", "tiny", {}, gpu) == {}
    with pytest.raises(ValueError, match="choose one of auto, float32, bfloat16"):
        choose_precision("half", "tiny", {}, cpu)
    with pytest.raises(ValueError, match="'tiny' has no choice of precision"):
        PolicyEngine.load(served_checkpoint, "cpu", precision="bfloat16")
    with pytest.raises(ValueError, match="unknown device 'toaster'"):
        choose_device("toaster")
    with pytest.raises(ValueError, match="max_batch must be at least 1"):
        PolicyEngine.load(served_checkpoint, "cpu", max_batch=0)
    assert batch_sizes(1) == [1]
    assert batch_sizes(6) == [1, 2, 4, 6]


def test_text_keeps_all_its_tokens_in_order_and_loses_padding_that_nobody_needs() -> None:
    text = torch.full((2, 100), -1)
    text[0, :20], text[1, 0], text[1, 60:80] = torch.arange(20), 7, torch.arange(100, 120)
    trimmed = trim_text(Inputs(torch.zeros(2, 3), torch.zeros(2, 7), text)).text
    assert trimmed.shape == (2, 64)
    for row in range(2):
        assert torch.equal(trimmed[row][trimmed[row] >= 0], text[row][text[row] >= 0])
    assert (trimmed[0, :20] >= 0).all() and trimmed[1, 0] == 7
    full = torch.zeros((1, 16), dtype=torch.long)
    assert trim_text(Inputs(torch.zeros(1, 3), torch.zeros(1, 7), full)).text.shape == (1, 16)


def test_batches_for_graphs_are_filled_up_with_their_last_row() -> None:
    inputs = Inputs(torch.arange(9).reshape(3, 3), torch.randn(3, 7), torch.ones(3, 5, dtype=torch.long))
    padded = pad_rows(inputs)
    assert len(padded) == 4
    for name in ("image", "state_B7", "text"):
        assert torch.equal(getattr(padded, name)[:3], getattr(inputs, name))
        assert torch.equal(getattr(padded, name)[3], getattr(inputs, name)[2])
    assert len(pad_rows(padded)) == 4


def test_scalings_without_uploads_scale_alike(engine: PolicyEngine) -> None:
    ours, plain = with_constant_scalings(engine.spec), engine.spec
    x = torch.randn(2, 5, 7)
    for name in ("action_scaling", "state_scaling"):
        a, b = getattr(ours, name), getattr(plain, name)
        assert torch.equal(a.normalise(x), b.normalise(x)) and torch.equal(a.restore(x), b.restore(x))
