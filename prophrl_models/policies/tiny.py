"""The tiny policy: under two million parameters, trained on two CPU cores in minutes.

    image + words                  -> feature map
    words, opening, height, ...    -> a query; query . feature map = where the next waypoint appears in the image
    that pixel's ray at a height   -> the waypoint: the TCP pose at the demonstration's next gripper event
    state, waypoint - TCP, keypoints, words -> condition -> flow head -> a chunk of actions

The waypoint is learned from a label that every demonstration carries for free (hindsight: where the hand was when the
gripper next moved); no object pose is ever given. It is an auxiliary loss and a feature. The chunk still comes from the
flow head, so nothing stops the policy from moving in ways that the waypoint does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prophrl_models.policies.camera_rays import CameraRays
from prophrl_models.policies.flow_head import FlowHead
from prophrl_models.policies.interface import (
    Cond,
    FlowPolicy,
    Inputs,
    ObservationBatch,
    PolicySpec,
    TrainingBatch,
    UnknownInstruction,
)
from prophrl_models.policies.keypoints import ImageTrunk, cell_centres, peak_position, target_map
from prophrl_models.policies.rotations import relative_rotation
from prophrl_models.policies.text import WordEncoder, tokenise


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of the tiny policy.

    Attributes:
        maps: free keypoints M beside the waypoint's.
        channels: width of the convolutional trunk's finest level.
        width, depth, heads, mlp_ratio, spread: flow head.
        cond_width: width of condition tokens.
        waypoint_weight: weight of the auxiliary waypoint loss.
        reference_euler: orientation [3] rad about which rotations are small; the demonstrations' typical one.
        bf16: convolve in bfloat16 (twice as fast where the CPU has AVX512-BF16).
    """

    maps: int = 8
    channels: int = 32
    width: int = 96
    depth: int = 2
    heads: int = 4
    mlp_ratio: int = 2
    spread: float = 0.4
    cond_width: int = 128
    waypoint_weight: float = 1.0
    reference_euler: tuple[float, float, float] = (0.0, 0.0, 0.0)
    bf16: bool = True


UNIT_M = 0.1
"""Positions inside the network are in units of 10 cm."""
PEAK_RADIUS = 3
TARGET_SPREAD_CELLS = 0.8


class TinyPolicy(FlowPolicy):
    """See the file's head. Images are halved to 120x160 for speed, feature maps have half of that."""

    kind = "tiny"

    def __init__(self, spec: PolicySpec, config: TinyConfig | None = None) -> None:
        super().__init__(spec)
        c = self.tiny = config or TinyConfig()
        self.camera = CameraRays(spec.image_width, spec.image_height)
        self.words = WordEncoder(c.cond_width)
        self.trunk = ImageTrunk(c.channels, c.cond_width)
        self.map_queries = nn.Parameter(c.channels**-0.5 * torch.randn(c.maps, c.channels))
        situation = c.cond_width + 7 + self.trunk.summary_channels
        self.query = _mlp(situation, 64, c.channels)
        self.waypoint = _mlp(situation + c.channels, 64, 5)
        self.summary = _mlp(situation + 13 + c.channels, 2 * c.cond_width, c.cond_width)
        self.keypoint_token = nn.Linear(c.channels + 2, c.cond_width)
        self.keypoint_name = nn.Parameter(0.02 * torch.randn(1, c.maps, c.cond_width))
        self.head = FlowHead(
            spec.action_dim, spec.chunk, c.cond_width, c.width, c.depth, c.heads, c.mlp_ratio, c.spread
        )

    def config(self) -> dict[str, object]:
        return asdict(self.tiny)

    def prepare(self, obs: ObservationBatch) -> Inputs:
        """Halved images (uint8 [B, 3, H/2, W/2]), states, word ids; see ``FlowPolicy``."""
        known = self.spec.instructions
        for text in obs.instruction_B:
            if known and text not in known:
                raise UnknownInstruction(
                    f"this policy was not trained on {text!r}; it knows {', '.join(map(repr, known))}"
                )
        image = F.avg_pool2d(obs.image_BHW3.permute(0, 3, 1, 2).float(), 2).round().to(torch.uint8)
        return Inputs(image.contiguous(), obs.state_B7.float(), tokenise(obs.instruction_B).to(image.device))

    def embed(self, inputs: Inputs) -> Cond:
        return self.condition(inputs.state_B7, self.perceive(inputs))

    def perceive(self, inputs: Inputs) -> dict[str, Tensor]:
        """What the picture says: the waypoint [B, 6] in the network's units with its map, and features at places."""
        text = self.words(inputs.text)
        image = inputs.image.contiguous(memory_format=torch.channels_last).float()
        with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=self.tiny.bf16):
            features, context = self.trunk((image - 112.0) / 64.0, text)
        height, width = features.shape[2:]
        features = features.permute(0, 2, 3, 1).flatten(1, 2).float()  # [B, N, C]; the memory is laid out so already
        situation = torch.cat([text, self.to_units(inputs.state_B7), context], 1)

        # The waypoint's query depends on the situation, those of the free keypoints do not; read all at once.
        free = self.map_queries.expand(len(text), -1, -1)
        queries = torch.cat([self.query(situation)[:, None], free], 1)  # [B, 1 + M, C]
        logits = (features @ queries.transpose(1, 2)).transpose(1, 2)  # [B, 1 + M, N]
        maps = logits.softmax(2)
        position, weight = peak_position(maps[:, 0], height, width, PEAK_RADIUS)
        attention = torch.cat([weight[:, None], maps[:, 1:]], 1)
        read = attention @ features
        seen = read[:, 0]
        rest = self.waypoint(torch.cat([situation, seen], 1))  # height, rotation vector, opening logit
        z_m = rest[:, 0] * UNIT_M + self.spec.state_scaling.offset[2]
        point = self.to_units(torch.cat([self.camera.at_height(position, z_m), inputs.state_B7[:, 3:]], 1))[:, :3]
        keypoints = maps[:, 1:] @ cell_centres(height, width, image.device)
        places = torch.cat([read[:, 1:], keypoints], 2)
        return {
            "text": text,
            "context": context,
            "seen": seen,
            "places": places,
            "waypoint": torch.cat([point, rest[:, 1:4]], 1),
            "waypoint_opening": rest[:, 4],
            "waypoint_logits": logits[:, 0],
        }

    def condition(self, state_B7: Tensor, percept: dict[str, Tensor]) -> Cond:
        """The flow head's condition: what was seen, put in relation to where the hand is."""
        state, waypoint = self.to_units(state_B7), percept["waypoint"]
        to_go = waypoint - state[:, :6]
        near = torch.cat([to_go, torch.tanh(to_go[:, :3] / 0.5), torch.tanh(to_go[:, :3] / 0.12)], 1)
        opening = percept["waypoint_opening"][:, None]
        parts = [percept["text"], state, near, opening, percept["context"], percept["seen"]]
        vector = self.summary(torch.cat(parts, 1))
        places = self.keypoint_token(percept["places"]) + self.keypoint_name
        tokens = torch.cat([places, percept["text"][:, None], vector[:, None]], 1)
        return Cond(tokens, vector, {k: v for k, v in percept.items() if k.startswith("waypoint")})

    def to_units(self, pose_B7: Tensor) -> Tensor:
        """Poses [B, 7] (m, rad, fraction) as [position / 0.1 m about its mean, rotation vector, 2 g - 1]."""
        mean = pose_B7.new_tensor(self.spec.state_scaling.offset[:3])
        rotation = relative_rotation(pose_B7.new_tensor(self.tiny.reference_euler), pose_B7[:, 3:6])
        return torch.cat([(pose_B7[:, :3] - mean) / UNIT_M, rotation, 2.0 * pose_B7[:, 6:7] - 1.0], 1)

    def predicted_waypoint_m(self, cond: Cond) -> Tensor:
        """Predicted waypoint positions [B, 3] in metres, base frame (for figures and tests)."""
        waypoint = cond.extras["waypoint"][:, :3]
        return waypoint * UNIT_M + waypoint.new_tensor(self.spec.state_scaling.offset[:3])

    def velocity(self, cond: Cond, x_BCD: Tensor, t_B: Tensor) -> Tensor:
        v: Tensor = self.head(cond, x_BCD, t_B)
        return v

    def sft_loss(self, batch: TrainingBatch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Flow matching plus the waypoint loss; see ``FlowPolicy``.

        Raises:
            ValueError: the batch has no waypoint labels.
        """
        if batch.waypoint_B7 is None or batch.waypoint_weight_B is None:
            raise ValueError(
                "the tiny policy learns from waypoint labels, and this batch has none; see training.frames"
            )
        cond = self.embed(batch.inputs)
        errors = self.flow_errors(cond, batch.actions_BCD, batch.noise_samples, batch.cumulative_weight, generator)
        flow = _weighted_mean(errors.mean(1), batch.weight_B)

        # Where it appears, as a classification over cells: unlike a distance it has a gradient from the first step.
        image = batch.inputs.image
        target = target_map(
            self.camera.project(batch.waypoint_B7[:, :3]), image.shape[2] // 2, image.shape[3] // 2, TARGET_SPREAD_CELLS
        )
        where_B = -(target * cond.extras["waypoint_logits"].log_softmax(1)).sum(1)
        error = cond.extras["waypoint"] - self.to_units(batch.waypoint_B7)[:, :6]
        pose_B = F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1, reduction="none").mean(1)
        opening_B = F.binary_cross_entropy_with_logits(
            cond.extras["waypoint_opening"], (batch.waypoint_B7[:, 6] > 0.5).float(), reduction="none"
        )
        waypoint = _weighted_mean(0.2 * where_B + pose_B + 0.1 * opening_B, batch.waypoint_weight_B)
        distance_mm = 1000.0 * UNIT_M * error[:, :3].detach().norm(dim=1)
        return {
            "loss": flow + self.tiny.waypoint_weight * waypoint,
            "flow": flow.detach(),
            "waypoint": waypoint.detach(),
            "waypoint_mm": _weighted_mean(distance_mm, batch.waypoint_weight_B),
        }


def build(spec: PolicySpec, architecture: Mapping[str, Any], assets: Mapping[str, bytes]) -> TinyPolicy:
    """See ``policies.load.Builder``."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in architecture.items()}
    return TinyPolicy(spec, TinyConfig(**values))


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


def _weighted_mean(values_B: Tensor, weight_B: Tensor) -> Tensor:
    return (values_B * weight_B).sum() / weight_B.sum().clamp_min(1e-6)
