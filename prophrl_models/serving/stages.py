"""The two halves of an answer, encode and denoise, run plainly or replayed as CUDA graphs.

At batch one a large policy launches thousands of small kernels, and the GPU waits for Python between them. A CUDA
graph records the launches once for one set of shapes and replays them in one call. What varies from request to
request is therefore brought to few shapes: prompts to multiples of ``TEXT_STEP`` tokens, batches to powers of two.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from prophrl_models.policies.flow import time_grid
from prophrl_models.policies.interface import Cond, FlowPolicy, Inputs, PolicySpec, Scaling

TEXT_STEP = 32
CAPTURE_WARM_UPS = 3
"""Runs before a capture: libraries allocate their workspaces and compilers compile."""

log = logging.getLogger(__name__)


class Stages(Protocol):
    """What the engine calls; chains are in normalised units."""

    def encode(self, inputs: Inputs) -> Cond:
        """Condition of B observations."""
        ...

    def denoise(self, cond: Cond, noise_BCD: Tensor) -> Tensor:
        """End of the chain [B, *chain_shape], float32, from its start."""
        ...


def euler(policy: FlowPolicy, velocity: Callable[[Cond, Tensor, Tensor], Tensor]) -> Callable[[Cond, Tensor], Tensor]:
    """The K-step ODE of ``flow.sample`` without its trace and without a look at any tensor's value.

    A look would make the CPU wait for the GPU, and cannot be recorded in a CUDA graph.
    """
    steps = policy.spec.num_steps
    device = next(policy.parameters()).device
    t_K = time_grid(steps, device)[:-1]

    def denoise(cond: Cond, noise_BCD: Tensor) -> Tensor:
        x = noise_BCD.float()
        for k in range(steps):
            x = x - velocity(cond, x, t_K[k].expand(len(x))).float() * (1.0 / steps)
        return x

    return denoise


class EagerStages:
    """Plain calls; with ``compile`` through torch.compile."""

    def __init__(self, policy: FlowPolicy, compile: bool = False) -> None:
        self._encode, velocity = _functions(policy, compile)
        self._denoise = euler(policy, velocity)

    def encode(self, inputs: Inputs) -> Cond:
        return self._encode(inputs)

    def denoise(self, cond: Cond, noise_BCD: Tensor) -> Tensor:
        if noise_BCD.device.type != "cuda":
            return self._denoise(cond, noise_BCD)
        # Heads that use autocast cast their weights anew at each step, unless an autocast around them keeps the result.
        with torch.autocast("cuda", enabled=False):
            return self._denoise(cond, noise_BCD)


@dataclass
class _Recording:
    """Graphs of one set of shapes with the memory they read and write."""

    inputs: Inputs
    noise: Tensor
    cond: Cond
    end: Tensor
    encode: torch.cuda.CUDAGraph
    denoise: torch.cuda.CUDAGraph


class GraphStages:
    """CUDA graphs, one pair for each batch size and text length, recorded at first use.

    ``encode`` and ``denoise`` belong together: a condition lives in its graph's memory and is overwritten by the next
    ``encode``, so ``denoise`` may only be given the latest one, or part of it.
    """

    def __init__(self, policy: FlowPolicy, device: torch.device, compile: bool = False) -> None:
        self._policy, self._device = policy, device
        self._eager = EagerStages(policy, compile)
        self._recordings: dict[tuple[Any, ...], _Recording | None] = {}
        self._latest: tuple[Cond, _Recording, int] | None = None

    def encode(self, inputs: Inputs) -> Cond:
        rows = len(inputs)
        inputs = pad_rows(inputs)
        key = (tuple(inputs.image.shape), tuple(inputs.text.shape))
        if key not in self._recordings:
            self._recordings[key] = self._try_record(inputs)
        recording = self._recordings[key]
        if recording is None:
            self._latest = None
            return self._eager.encode(inputs).select(slice(0, rows))
        _copy(recording.inputs, inputs)
        recording.encode.replay()
        cond = recording.cond if rows == len(inputs) else recording.cond.select(slice(0, rows))
        self._latest = (cond, recording, rows)
        return cond

    def denoise(self, cond: Cond, noise_BCD: Tensor) -> Tensor:
        if self._latest is None or cond is not self._latest[0]:
            return self._eager.denoise(cond, noise_BCD)  # part of a batch: its shapes were not recorded
        _, recording, rows = self._latest
        recording.noise[:rows].copy_(noise_BCD)
        recording.denoise.replay()
        return recording.end[:rows].clone()

    def _try_record(self, inputs: Inputs) -> _Recording | None:
        try:
            return self._record(inputs)
        except RuntimeError as error:  # what capture raises when a policy synchronises or allocates on the host
            log.warning("this policy cannot be recorded as a CUDA graph and runs eagerly: %s", error)
            torch.cuda.synchronize(self._device)
            return None

    def _record(self, inputs: Inputs) -> _Recording:
        inputs = Inputs(inputs.image.clone(), inputs.state_B7.clone(), inputs.text.clone())
        noise = torch.zeros((len(inputs), *self._policy.chain_shape), device=self._device)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(CAPTURE_WARM_UPS):
                self._eager.denoise(self._eager.encode(inputs), noise)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        encode, denoise = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(encode):
            cond = self._eager.encode(inputs)
        with torch.cuda.graph(denoise, pool=encode.pool()):
            end = self._eager.denoise(cond, noise)
        return _Recording(inputs, noise, cond, end, encode, denoise)


def trim_text(inputs: Inputs) -> Inputs:
    """Leave out columns of token ids that are padding (-1) in every row, down to a multiple of ``TEXT_STEP``.

    Policies pad prompts to the longest they know; nobody sees padding, but it is computed all the same.
    """
    used = (inputs.text != -1).any(0)
    wanted = min(-(-int(used.sum()) // TEXT_STEP) * TEXT_STEP, len(used))
    spare = (~used).cumsum(0) <= wanted - int(used.sum())
    return replace(inputs, text=inputs.text[:, used | spare])


def pad_rows(inputs: Inputs) -> Inputs:
    """Rows to a power of two: the last one again."""
    missing = (1 << (len(inputs) - 1).bit_length()) - len(inputs)

    def rows(x: Tensor) -> Tensor:
        return torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x

    return Inputs(rows(inputs.image), rows(inputs.state_B7), rows(inputs.text))


@dataclass(frozen=True)
class ConstantScaling(Scaling):
    """A scaling that uploads its numbers once per device: an upload cannot be recorded in a CUDA graph."""

    def normalise(self, x: Tensor) -> Tensor:
        offset, scale = _constants(self.offset, self.scale, x.device, x.dtype)
        return (x - offset) / scale

    def restore(self, x: Tensor) -> Tensor:
        offset, scale = _constants(self.offset, self.scale, x.device, x.dtype)
        return x * scale + offset


def with_constant_scalings(spec: PolicySpec) -> PolicySpec:
    """The same specification, for a policy that is to be recorded."""
    action, state = (ConstantScaling(s.offset, s.scale) for s in (spec.action_scaling, spec.state_scaling))
    return replace(spec, action_scaling=action, state_scaling=state)


@cache
def _constants(
    offset: tuple[float, ...], scale: tuple[float, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    return torch.tensor(offset, device=device, dtype=dtype), torch.tensor(scale, device=device, dtype=dtype)


def _copy(into: Inputs, inputs: Inputs) -> None:
    into.image.copy_(inputs.image)
    into.state_B7.copy_(inputs.state_B7)
    into.text.copy_(inputs.text)


def _functions(
    policy: FlowPolicy, compile: bool
) -> tuple[Callable[[Inputs], Cond], Callable[[Cond, Tensor, Tensor], Tensor]]:
    def encode(inputs: Inputs) -> Cond:
        return policy.ready(policy.embed(inputs))

    if not compile:
        return encode, policy.velocity
    return torch.compile(encode, dynamic=False), torch.compile(policy.velocity, dynamic=False)
