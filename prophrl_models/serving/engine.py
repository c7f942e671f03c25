"""A checkpoint that answers observations with action chunks: the same engine in the policy node and in the server.

Each request has a seed of its own, from which its noise is drawn on the CPU: an answer depends on the request alone,
not on what was asked before, on who else is in the batch (up to rounding), or on where the engine runs.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.interface import (
    Cond,
    FlowPolicy,
    ObservationBatch,
    ObservationLike,
    PolicySpec,
    UnknownInstruction,
)
from prophrl_models.policies.load import build_policy
from prophrl_models.serving.errors import SetupError
from prophrl_models.serving.latency import LatencyMeter
from prophrl_models.serving.stages import EagerStages, GraphStages, Stages, trim_text, with_constant_scalings
from prophrl_models.training.checkpoint import CheckpointError, read_checkpoint

if TYPE_CHECKING:
    from prophrl_models.policies.chunking import Committed

PRECISIONS = ("auto", "float32", "bfloat16")
PRECISION_FIELDS = {"pi05": "weights", "vla_adapter": "dtype", "openvla_oft": "dtype"}
"""Where the architecture of a kind says in which numbers it computes; other kinds have no choice."""
WARM_UP_RUNS = 5


@dataclass(frozen=True)
class PolicyRequest:
    """One robot's question.

    Attributes:
        observation: what it sees, see ``data.episode.Observation``.
        seed: of the noise this chunk starts from.
        committed: actions of the running chunk that the new one must continue, environment units; None for a chunk
            that starts from rest.
    """

    observation: ObservationLike
    seed: int
    committed: Committed | None = None


@dataclass(frozen=True)
class PolicyAnswer:
    """A chunk [CH, D] in environment units, and milliseconds by stage (``batch`` is a count of requests)."""

    actions_CHD: NDArray[np.float32]
    timing: dict[str, float]


@dataclass(frozen=True)
class WarmUp:
    """Latencies of single answers while warming up, the first of each shape left out.

    Attributes:
        free: chunks that continue nothing.
        guided: chunks that continue others; empty where that was not asked for.
    """

    free: LatencyMeter
    guided: LatencyMeter


class PolicyEngine:
    """Samples chunks from a policy. Not thread-safe: one thread asks.

    Args:
        policy: becomes the engine's own: it is moved to the device and put into evaluation mode.
        device: where it runs.
        compile: fuse kernels with torch.compile (minutes at start, less per chunk).
        max_batch: most requests answered together.
        policy_id, checkpoint_id, sync, precision: see ``protocol.Hello``.

    Raises:
        ValueError: no batch size.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        device: torch.device,
        *,
        compile: bool = False,
        max_batch: int = 1,
        policy_id: str = "",
        checkpoint_id: str = "",
        sync: SyncSpec | None = None,
        precision: str = "float32",
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {max_batch}")
        self.spec = policy.spec
        """What the checkpoint promises."""
        self.policy = policy.to(device).eval()
        self.policy.spec = with_constant_scalings(policy.spec)
        self.device, self.max_batch = device, max_batch
        self.policy_id, self.checkpoint_id, self.precision = policy_id, checkpoint_id, precision
        self.sync = sync or SyncSpec(control_rate_hz=self.spec.control_rate_hz)
        self._stages = make_stages(self.policy, device, compile)

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        device: str = "auto",
        *,
        threads: int = 0,
        precision: str = "auto",
        compile: bool = False,
        max_batch: int = 1,
    ) -> PolicyEngine:
        """The engine of a checkpoint.

        Args:
            checkpoint: folder as ``prophrl train`` writes it.
            device: torch device by name; "auto" takes a GPU when there is one.
            threads: CPU threads torch may use; 0 leaves torch's own choice.
            precision: "float32" or "bfloat16" (what must stay float32 does, each policy knows), or "auto": bfloat16 on
                a GPU, otherwise as the checkpoint was saved.

        Raises:
            CheckpointError: the checkpoint cannot be trusted or built.
            SetupError: unknown precision or device, or a kind of policy that has no choice of precision.
        """
        if threads:
            torch.set_num_threads(threads)
        where = choose_device(device)
        files = read_checkpoint(Path(checkpoint).expanduser())
        architecture = choose_precision(precision, files.kind, files.architecture, where)
        policy = build_policy(files, architecture)
        policy.requires_grad_(False)  # guidance asks for gradients of actions, and would keep what weights need, too
        return cls(
            policy,
            where,
            compile=compile,
            max_batch=max_batch,
            policy_id=files.folder.resolve().name,
            checkpoint_id=id_of(files.provenance),
            sync=files.sync,
            precision=str(architecture.get(PRECISION_FIELDS.get(files.kind, ""), "float32")),
        )

    def check(self, request: PolicyRequest) -> None:
        """Refuse a request that this policy cannot answer, before it can spoil a batch.

        Raises:
            UnknownInstruction: not an instruction of the training set.
            ValueError: image, state or committed actions of another size, or numbers that are not finite.
        """
        observation, known = request.observation, self.spec.instructions
        if known and observation.instruction not in known:
            raise UnknownInstruction(
                f"this policy was not trained on {observation.instruction!r}; it knows {', '.join(map(repr, known))}"
            )
        self.policy.check(ObservationBatch.of([observation]))
        if not np.isfinite(observation.state_7).all():
            raise ValueError(f"the state holds numbers that are not finite: {observation.state_7.tolist()}")
        if request.committed is not None:
            actions = request.committed.actions_MD
            if actions.ndim != 2 or actions.shape[1] != self.spec.action_dim or len(actions) > self.spec.chunk:
                wanted = f"[M <= {self.spec.chunk}, {self.spec.action_dim}]"
                raise ValueError(f"committed actions need shape {wanted}, got {actions.shape}")
            if not np.isfinite(actions).all():
                raise ValueError("committed actions hold numbers that are not finite")

    def answer(self, requests: Sequence[PolicyRequest]) -> list[PolicyAnswer]:
        """One chunk for each request, all sampled together.

        Raises:
            ValueError: no request, or more than ``max_batch``; or see ``check``.
        """
        if not 1 <= len(requests) <= self.max_batch:
            raise ValueError(f"a batch holds 1 to {self.max_batch} requests, got {len(requests)}")
        started_s = time.perf_counter()
        for request in requests:
            self.check(request)
        with torch.no_grad():
            inputs = self.policy.prepare(ObservationBatch.of([request.observation for request in requests]))
            inputs = trim_text(inputs).to(self.device)
            noise = torch.stack([self._noise(request.seed) for request in requests]).to(self.device)
            prepared_s = self._now_s()
            cond = self._stages.encode(inputs)
            encoded_s = self._now_s()
            chunks = self._sample(cond, noise, requests)
            sampled_s = self._now_s()
        marks = {"prepare_ms": prepared_s - started_s, "encode_ms": encoded_s - prepared_s}
        marks |= {"sample_ms": sampled_s - encoded_s, "total_ms": sampled_s - started_s}
        timing = {name: 1e3 * seconds for name, seconds in marks.items()} | {"batch": float(len(requests))}
        return [PolicyAnswer(actions, dict(timing)) for actions in chunks.float().cpu().numpy()]

    def warm_up(self, runs: int = WARM_UP_RUNS, *, guided: bool = False) -> WarmUp:
        """Answer made-up requests in every shape that occurs, so that no robot waits for compilers and first touches.

        Shapes are batch sizes and lengths of the prompt, which depends on instruction and state.

        Args:
            guided: also answer requests that continue actions in execution, as real-time chunking asks for; they run
                through other code, with gradients.
        """
        warm = WarmUp(LatencyMeter(), LatencyMeter())
        for size in batch_sizes(self.max_batch):
            for seen in self._shapes():
                request = PolicyRequest(seen, seed=0)
                self._time(warm.free, request, size, runs)
                if guided:
                    self._time(warm.guided, replace(request, committed=_hold(self.spec)), size, runs)
        return warm

    def _time(self, meter: LatencyMeter, request: PolicyRequest, size: int, runs: int) -> None:
        """Answer a request ``size`` times at once, ``runs`` times; single answers after the first are counted."""
        for run in range(runs):
            began_s = time.perf_counter()
            self.answer([request] * size)
            if size == 1 and run:
                meter.add(time.perf_counter() - began_s)

    def _shapes(self) -> list[_Blank]:
        """An observation for each length of the prompt: states are written into some, in one to three digits."""
        found: dict[int, _Blank] = {}
        for seen in _blanks(self.spec):
            length = trim_text(self.policy.prepare(ObservationBatch.of([seen]))).text.shape[1]
            found.setdefault(length, seen)
        return list(found.values())

    def _sample(self, cond: Cond, noise: Tensor, requests: Sequence[PolicyRequest]) -> Tensor:
        """Chunks [B, CH, D], environment units; only those that continue others are guided, which costs more."""
        guided = [row for row, request in enumerate(requests) if request.committed is not None]
        if not guided:
            return self._restore(self._stages.denoise(cond, noise))
        from prophrl_models.policies.chunking import guided_sample

        rows = torch.tensor(guided, device=self.device)
        committed = [requests[row].committed for row in guided]
        continued = guided_sample(self.policy, cond.select(rows), committed, noise=noise[rows])
        if len(guided) == len(requests):
            return continued
        chunks = self._restore(self._stages.denoise(cond, noise))
        chunks[rows] = continued
        return chunks

    def _restore(self, chain_end: Tensor) -> Tensor:
        return self.spec.action_scaling.restore(self.policy.environment(chain_end))

    def _noise(self, seed: int) -> Tensor:
        return torch.randn(self.policy.chain_shape, generator=torch.Generator().manual_seed(seed))

    def _now_s(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def id_of(provenance: Mapping[str, Any]) -> str:
    """SHA-256 over the digests of all files of a checkpoint: two folders with one id hold the same policy."""
    return hashlib.sha256(json.dumps(provenance["sha256"], sort_keys=True).encode()).hexdigest()


def chunk_seed(run_seed: int, index: int) -> int:
    """Seed of the ``index``-th chunk of a run: runs and chunks share no noise."""
    return int(np.random.SeedSequence((run_seed, index)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def choose_device(name: str) -> torch.device:
    """A torch device by name; "auto" is a GPU when there is one.

    Raises:
        SetupError: unknown, or CUDA asked for where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SetupError(f"unknown device {name!r}; choose auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SetupError(f"device {name!r} was asked for, but torch sees no GPU; choose cpu, or look at nvidia-smi")
    return device


def choose_precision(name: str, kind: str, architecture: Mapping[str, Any], device: torch.device) -> Mapping[str, Any]:
    """The architecture with the precision that was asked for.

    Raises:
        SetupError: not one of ``PRECISIONS``, or nothing to choose in this kind.
    """
    if name not in PRECISIONS:
        raise SetupError(f"unknown precision {name!r}; choose one of {', '.join(PRECISIONS)}")
    field = PRECISION_FIELDS.get(kind)
    if field is None and name != "auto":
        raise SetupError(f"a policy of kind {kind!r} has no choice of precision; leave it at auto")
    if field is None or (name == "auto" and device.type != "cuda"):
        return architecture
    return {**architecture, field: "bfloat16" if name == "auto" else name}


def make_stages(policy: FlowPolicy, device: torch.device, compile: bool) -> Stages:
    """CUDA graphs on a GPU, plain calls elsewhere and for the tiny policy, which is faster than that matters."""
    graphs = device.type == "cuda" and policy.kind != "tiny"
    return GraphStages(policy, device, compile) if graphs else EagerStages(policy, compile)


def batch_sizes(max_batch: int) -> list[int]:
    """Powers of two up to ``max_batch``, and ``max_batch``: the sizes worth warming up."""
    sizes = [1 << k for k in range(max_batch.bit_length()) if 1 << k <= max_batch]
    return sorted({*sizes, max_batch})


@dataclass(frozen=True)
class _Blank:
    image_HW3: NDArray[np.uint8]
    state_7: NDArray[np.float32]
    instruction: str


def _blanks(spec: PolicySpec) -> Iterator[_Blank]:
    """Black pictures with each instruction, at the middle and at the bottom of the state's range."""
    image = np.zeros((spec.image_height, spec.image_width, 3), dtype=np.uint8)
    middle, scale = (
        np.asarray(values, dtype=np.float32) for values in (spec.state_scaling.offset, spec.state_scaling.scale)
    )
    for instruction in spec.instructions or ("wait",):
        for state in (middle, middle - np.abs(scale)):
            yield _Blank(image, state, instruction)


def _hold(spec: PolicySpec) -> Committed:
    """Half a chunk of staying where one is, of which the first row is being executed."""
    from prophrl_models.policies.chunking import Committed

    return Committed(np.zeros((max(1, spec.chunk // 2), spec.action_dim), dtype=np.float32), frozen=1)


__all__ = ["CheckpointError", "PolicyAnswer", "PolicyEngine", "PolicyRequest", "UnknownInstruction", "chunk_seed"]
