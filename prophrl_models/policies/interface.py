"""What every policy is: an encoder that runs once per observation and a light flow head that runs K times.

A big VLA and the tiny CPU policy differ only in ``prepare``, ``embed`` and ``velocity``; sampling, log-probabilities
for reinforcement learning and the units of actions are the same code here. Chunks leave a policy in environment
units (metres, radians, opening fraction) in the convention that ``PolicySpec`` names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calibration.poses import ActionConvention
from prophrl_models.policies import flow


class UnknownInstruction(ValueError):
    """An instruction the policy was not trained on."""


class ObservationLike(Protocol):
    """One observation, as ``data.episode.Observation`` holds it."""

    @property
    def image_HW3(self) -> NDArray[np.uint8]: ...

    @property
    def state_7(self) -> NDArray[np.float32]: ...

    @property
    def instruction(self) -> str: ...


@dataclass(frozen=True)
class ObservationBatch:
    """Observations of a batch: images uint8 RGB, states ``[x y z ex ey ez g]`` (m, rad, opening fraction)."""

    image_BHW3: Tensor
    state_B7: Tensor
    instruction_B: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.instruction_B)

    @classmethod
    def of(cls, observations: Sequence[ObservationLike]) -> ObservationBatch:
        """Stack single observations."""
        return cls(
            torch.from_numpy(np.stack([np.asarray(o.image_HW3) for o in observations])),
            torch.from_numpy(np.stack([np.asarray(o.state_7, dtype=np.float32) for o in observations])),
            tuple(o.instruction for o in observations),
        )


@dataclass(frozen=True)
class Inputs:
    """Observations after a policy's own deterministic preprocessing: what training caches and augments.

    Attributes:
        image: whatever the policy makes of the picture, uint8 where possible, first dimension B.
        state_B7: states, environment units.
        text: token ids [B, L], -1 where a row is shorter.
    """

    image: Tensor
    state_B7: Tensor
    text: Tensor

    def __len__(self) -> int:
        return len(self.state_B7)

    def select(self, rows: Tensor | slice) -> Inputs:
        return Inputs(self.image[rows], self.state_B7[rows], self.text[rows])

    def to(self, device: torch.device) -> Inputs:
        """The same rows on a device."""
        return Inputs(self.image.to(device), self.state_B7.to(device), self.text.to(device))


@dataclass(frozen=True)
class Cond:
    """What the flow head needs to know of an observation.

    Attributes:
        tokens_BNE: tokens for cross-attention [B, N, E].
        vector_BE: summary for adaptive normalisation [B, E].
        extras: further per-row tensors of a policy (auxiliary predictions, caches), first dimension B.
    """

    tokens_BNE: Tensor
    vector_BE: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)

    def repeat(self, times: int) -> Cond:
        """Each row ``times`` times in a row (row-major), to fold denoising steps or noise samples into the batch."""
        return self._map(lambda x: x.repeat_interleave(times, dim=0))

    def select(self, rows: Tensor | slice) -> Cond:
        return self._map(lambda x: x[rows])

    def _map(self, f: object) -> Cond:
        assert callable(f)
        return Cond(f(self.tokens_BNE), f(self.vector_BE), {name: f(value) for name, value in self.extras.items()})


@dataclass(frozen=True)
class Scaling:
    """Channel-wise ``normalised = (value - offset) / scale`` with its inverse."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        # Negative scales turn a channel round: a gripper that the network knows as closed when large.
        if len(self.offset) != len(self.scale) or not all(abs(s) > 0 for s in self.scale):
            raise ValueError(f"a scaling needs one scale other than 0 for each offset, got {self.offset}, {self.scale}")

    def normalise(self, x: Tensor) -> Tensor:
        return (x - x.new_tensor(self.offset)) / x.new_tensor(self.scale)

    def restore(self, x: Tensor) -> Tensor:
        return x * x.new_tensor(self.scale) + x.new_tensor(self.offset)


@dataclass(frozen=True)
class PolicySpec:
    """What a checkpoint promises to whoever runs it.

    Attributes:
        convention: meaning of an action's six pose numbers.
        action_scaling, state_scaling: environment units to the network's units.
        control_rate_hz: steps per second of a chunk.
        action_dim, chunk, num_steps: D, CH and the denoising steps K used in training and deployment.
        state_dim: width of the state vector.
        image_height, image_width: size of the observation image in pixels.
        instructions: the instructions of the training set, verbatim.
        prompt: template around the instruction for policies with a language model.
        state_source: "measured", or in part ("commanded_opening") or whole ("integrated") counted from the policy's own
            actions (``training.state_source``).
    """

    convention: ActionConvention
    action_scaling: Scaling
    state_scaling: Scaling
    control_rate_hz: float = 10.0
    action_dim: int = 7
    chunk: int = 20
    num_steps: int = 10
    state_dim: int = 7
    image_height: int = 240
    image_width: int = 320
    instructions: tuple[str, ...] = ()
    prompt: str = "{instruction}"
    state_source: str = "measured"

    def __post_init__(self) -> None:
        if len(self.action_scaling.scale) != self.action_dim or len(self.state_scaling.scale) != self.state_dim:
            raise ValueError(
                f"scalings have {len(self.action_scaling.scale)} action and {len(self.state_scaling.scale)} state "
                f"channels, the spec says {self.action_dim} and {self.state_dim}; fit them on the same dataset"
            )

    def to_json(self) -> dict[str, Any]:
        """As ``config.json`` of a checkpoint holds it."""
        return {**asdict(self), "convention": ActionConvention(self.convention).name}

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> PolicySpec:
        """Inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, unknown or unusable.
        """
        values = {**raw, "convention": ActionConvention[raw["convention"]], "instructions": tuple(raw["instructions"])}
        for name in ("action_scaling", "state_scaling"):
            values[name] = Scaling(tuple(raw[name]["offset"]), tuple(raw[name]["scale"]))
        return PolicySpec(**values)


class FlowPolicy(nn.Module, ABC):
    """Base of all policies. Subclasses implement ``prepare``, ``embed``, ``velocity`` and ``config``."""

    kind: str = ""
    """Name under which ``policies.load`` registers the class."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def chain_shape(self) -> tuple[int, int]:
        """(CH, D) of what the flow head denoises: the spec's, or wider where a pre-trained head pads its actions.

        The environment's numbers are the first ``spec.chunk`` rows and ``spec.action_dim`` columns. Padding is noised
        and denoised like the rest, but enters neither losses nor log-probabilities.
        """
        return self.spec.chunk, self.spec.action_dim

    def assets(self) -> dict[str, bytes]:
        """Files beside the weights that the class needs to be built again (a tokeniser), by name."""
        return {}

    @abstractmethod
    def prepare(self, obs: ObservationBatch) -> Inputs:
        """Deterministic, cacheable preprocessing: resize images, tokenise instructions."""

    @abstractmethod
    def embed(self, inputs: Inputs) -> Cond:
        """The heavy part, once per observation."""

    @abstractmethod
    def velocity(self, cond: Cond, x_BCD: Tensor, t_B: Tensor) -> Tensor:
        """dx/dt [B, *chain_shape] at x with time label t (1 noise, 0 action): the light part, K times."""

    @abstractmethod
    def config(self) -> dict[str, object]:
        """Architecture settings, JSON-able, from which the class can be built again beside its spec."""

    def ready(self, cond: Cond) -> Cond:
        """The condition with everything computed that ``velocity`` needs of it alone, where there is such a thing.

        Called once before the K steps. The result is as old as the weights: do not keep it over an update.
        """
        return cond

    def encode(self, obs: ObservationBatch) -> Cond:
        """Condition of observations, wherever they lie; the result is on the policy's device.

        Raises:
            ValueError: image or state size differs from the spec.
            UnknownInstruction: the policy does not know an instruction.
        """
        self.check(obs)
        return self.embed(self.prepare(obs).to(next(self.parameters()).device))

    def check(self, obs: ObservationBatch) -> None:
        """Refuse observations the policy was not built for; the message names what differs."""
        expected = (len(obs), self.spec.image_height, self.spec.image_width, 3)
        if tuple(obs.image_BHW3.shape) != expected or obs.image_BHW3.dtype != torch.uint8:
            raise ValueError(
                f"this policy needs uint8 images of shape {expected}, got {obs.image_BHW3.dtype} "
                f"{tuple(obs.image_BHW3.shape)}; crop the colour stream to the size in its spec"
            )
        if tuple(obs.state_B7.shape) != (len(obs), self.spec.state_dim):
            raise ValueError(f"states need shape {(len(obs), self.spec.state_dim)}, got {tuple(obs.state_B7.shape)}")

    def draw_noise(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal start [count, *chain_shape] on the policy's device."""
        return torch.randn((count, *self.chain_shape), generator=generator, device=next(self.parameters()).device)

    @torch.no_grad()
    def sample_actions(
        self,
        obs: ObservationBatch | Cond,
        noise_BCD: Tensor | None = None,
        mode: str = "ode",
        num_steps: int | None = None,
        noise_level: float = 0.5,
        generator: torch.Generator | None = None,
        sde_mask_K: Tensor | None = None,
    ) -> tuple[Tensor, flow.Trace]:
        """Sample chunks.

        Args:
            obs: observations, or their condition when it is already there.
            noise_BCD: start of the chain; drawn when omitted. Zeros give the deterministic, mean-seeking chunk.
            mode, noise_level, sde_mask_K: see ``flow.sample``.
            num_steps: K; the spec's when omitted.

        Returns:
            Chunks [B, CH, D] in environment units, and the trace in normalised units; its chain has ``chain_shape``,
            its log-probabilities only the environment's numbers.
        """
        cond = self.ready(obs if isinstance(obs, Cond) else self.encode(obs))
        if noise_BCD is None:
            noise_BCD = self.draw_noise(len(cond.vector_BE), generator)
        trace = flow.sample(
            lambda x, t: self.velocity(cond, x, t),
            noise_BCD,
            num_steps or self.spec.num_steps,
            mode=mode,
            noise_level=noise_level,
            generator=generator,
            sde_mask_K=sde_mask_K,
        )
        trace = replace(trace, logp_BKCD=self.environment(trace.logp_BKCD))
        return self.spec.action_scaling.restore(self.environment(trace.actions_BCD)), trace

    @torch.no_grad()
    def act(self, obs: ObservationBatch) -> Tensor:
        """Chunks to execute [B, CH, D] in environment units: the ODE from zero noise, so the same input moves alike.

        Zero is the likeliest noise; where actions have one mode the chunk is close to their mean.
        """
        cond = self.encode(obs)
        noise = cond.vector_BE.new_zeros((len(obs), *self.chain_shape))
        return self.sample_actions(cond, noise)[0]

    def log_prob(self, obs: ObservationBatch | Cond, trace: flow.Trace) -> Tensor:
        """Log-density [B, K, CH, D] of a stored trace under the current parameters, differentiable.

        The encoder runs once per row, the K velocities in one folded batch.
        """
        cond = self.ready(obs if isinstance(obs, Cond) else self.encode(obs))
        folded = cond.repeat(trace.num_steps)
        return self.environment(flow.trace_log_prob(lambda x, t: self.velocity(folded, x, t), trace))

    def environment(self, x: Tensor) -> Tensor:
        """The environment's numbers [..., CH, D] of a tensor [..., *chain_shape]."""
        return x[..., : self.spec.chunk, : self.spec.action_dim]

    def pad(self, x_BCD: Tensor) -> Tensor:
        """Zeros around the environment's numbers [B, CH, D], to [B, *chain_shape]."""
        rows, columns = self.chain_shape
        return nn.functional.pad(x_BCD, (0, columns - x_BCD.shape[2], 0, rows - x_BCD.shape[1]))

    def sft_loss(self, batch: TrainingBatch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Supervised flow-matching loss; ``loss`` is the scalar to minimise, other entries are for the log."""
        cond = self.embed(batch.inputs)
        flow_BM = self.flow_errors(cond, batch.actions_BCD, batch.noise_samples, batch.cumulative_weight, generator)
        loss = (flow_BM.mean(1) * batch.weight_B).sum() / batch.weight_B.sum().clamp_min(1e-6)
        return {"loss": loss, "flow": loss.detach()}

    def flow_errors(
        self,
        cond: Cond,
        actions_BCD: Tensor,
        noise_samples: int,
        cumulative_weight: float,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Flow-matching loss [B, M] of environment-unit chunks with M (time, noise) draws for each condition."""
        B, M = len(actions_BCD), noise_samples
        action = self.pad(self.spec.action_scaling.normalise(actions_BCD)).repeat_interleave(M, dim=0)
        noise = torch.randn(action.shape, generator=generator, device=action.device)
        t = flow.sample_times(B * M, generator, action.device)
        v = self.velocity(self.ready(cond).repeat(M), flow.interpolate(action, noise, t), t)
        v, action, noise = (self.environment(x) for x in (v.float(), action, noise))
        return flow.flow_loss(v, action, noise, cumulative_weight).reshape(B, M)


@dataclass(frozen=True)
class TrainingBatch:
    """Rows of a training set, augmented and ready for ``FlowPolicy.sft_loss``.

    Attributes:
        inputs: prepared observations.
        actions_BCD: chunks in environment units.
        weight_B: importance of each row's flow loss.
        waypoint_B7: TCP pose and commanded opening at the row's next gripper event (hindsight label), for policies
            that learn from it.
        waypoint_weight_B: importance of that label; 0 where the demonstration shows none.
        noise_samples: (time, noise) draws for each row.
        cumulative_weight: see ``flow.flow_loss``.
    """

    inputs: Inputs
    actions_BCD: Tensor
    weight_B: Tensor
    waypoint_B7: Tensor | None = None
    waypoint_weight_B: Tensor | None = None
    noise_samples: int = 1
    cumulative_weight: float = 0.0

    def to(self, device: torch.device) -> TrainingBatch:
        """The same rows on a device."""
        moved: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in moved.items()}
        return replace(self, **{**moved, "inputs": self.inputs.to(device)})
