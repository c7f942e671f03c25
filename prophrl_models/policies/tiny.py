"""The tiny policy: a few hundred thousand parameters, trained on two CPU cores in minutes.

    image  -> keypoints (where) and features read there (what)        keypoints.py
    words  -> one vector, modulates the image encoder                 text.py
    keypoints, opening, words -> the next waypoint: the TCP pose at the demonstration's next gripper event
    state, waypoint - TCP, keypoints, words -> condition -> flow head -> a chunk of actions

The waypoint is learned from a label every demonstration carries for free (hindsight: where the hand was when the
gripper next moved); no object pose is ever given. It is an auxiliary loss and a feature, the chunk still comes from the
flow head, so nothing stops the policy from moving in ways the waypoint does not say.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prophrl_models.policies.flow_head import FlowHead
from prophrl_models.policies.interface import Cond, FlowPolicy, Inputs, ObservationBatch, PolicySpec, TrainingBatch
from prophrl_models.policies.interface import UnknownInstruction
from prophrl_models.policies.keypoints import KeypointEncoder, PlaneProjection
from prophrl_models.policies.rotations import relative_rotation
from prophrl_models.policies.text import WordEncoder, tokenise


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of the tiny policy.

    Attributes:
        maps: keypoints M.
        channels: width of the convolutional trunk.
        width, depth, heads: flow head.
        cond_width: width of condition tokens.
        waypoint_weight: weight of the auxiliary waypoint loss.
        reference_euler: orientation [3] rad about which rotations are small; the demonstrations' typical one.
        bf16_encoder: run convolutions in bfloat16 (twice as fast where the CPU has AVX512-BF16).
    """

    maps: int = 12
    channels: int = 32
    width: int = 128
    depth: int = 3
    heads: int = 4
    cond_width: int = 128
    waypoint_weight: float = 1.0
    reference_euler: tuple[float, float, float] = (0.0, 0.0, 0.0)
    bf16_encoder: bool = True


class TinyPolicy(FlowPolicy):
    """See the file's head. Images are halved to 120x160 for speed; positions inside are in units of 0.1 m."""

    kind = "tiny"

    def __init__(self, spec: PolicySpec, config: TinyConfig | None = None) -> None:
        super().__init__(spec)
        c = self.tiny = config or TinyConfig()
        self.words = WordEncoder(c.cond_width)
        self.encoder = KeypointEncoder(c.maps, c.channels, c.cond_width)
        self.projection = PlaneProjection(c.maps)
        gate_inputs = c.cond_width + 4 + c.channels
        self.gate = nn.Sequential(nn.Linear(gate_inputs, 64), nn.SiLU(), nn.Linear(64, c.maps))
        self.waypoint = nn.Sequential(nn.Linear(gate_inputs + c.channels + c.maps, 64), nn.SiLU(), nn.Linear(64, 5))
        summary = c.cond_width + 7 + 13 + c.maps + c.channels
        self.summary = nn.Sequential(
            nn.Linear(summary, 2 * c.cond_width), nn.SiLU(), nn.Linear(2 * c.cond_width, c.cond_width)
        )
        self.keypoint_token = nn.Linear(c.channels + 2 + 3, c.cond_width)
        self.keypoint_name = nn.Parameter(0.02 * torch.randn(1, c.maps, c.cond_width))
        self.head = FlowHead(spec.action_dim, spec.chunk, c.cond_width, c.width, c.depth, c.heads)

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
        text = self.words(inputs.text)
        image = inputs.image.to(memory_format=torch.channels_last)
        image = (image.float() - 112.0) / 64.0
        with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=self.tiny.bf16_encoder):
            keypoints, values, context = self.encoder(image, text)
        tcp = self.to_units(inputs.state_B7)
        opening = 2.0 * inputs.state_B7[:, 6:7] - 1.0
        points = self.projection(keypoints)  # [B, M, 3], units of 0.1 m

        gate_inputs = torch.cat([text, tcp[:, 3:6], opening, context], 1)
        gate = self.gate(gate_inputs).softmax(1)
        position = (gate[..., None] * points).sum(1)
        read = (gate[..., None] * values).sum(1)
        rest = self.waypoint(torch.cat([gate_inputs, read, gate], 1))  # height correction, rotation, opening logit
        position = torch.cat([position[:, :2], position[:, 2:] + rest[:, :1]], 1)
        waypoint = torch.cat([position, rest[:, 1:4]], 1)

        to_go = waypoint - tcp[:, :6]
        near = torch.cat([to_go, torch.tanh(to_go[:, :3] / 0.5), torch.tanh(to_go[:, :3] / 0.12), rest[:, 4:5]], 1)
        vector = self.summary(torch.cat([text, tcp, near, gate, context], 1))
        relative = points - tcp[:, None, :3]
        tokens = self.keypoint_token(torch.cat([values, keypoints, relative], 2)) + self.keypoint_name
        tokens = torch.cat([tokens, text[:, None], vector[:, None]], 1)
        return Cond(tokens, vector, {"waypoint": waypoint, "waypoint_opening": rest[:, 4], "keypoints": keypoints})

    def to_units(self, pose_B7: Tensor) -> Tensor:
        """Poses [B, 7] (m, rad, fraction) as [position / 0.1 m about its mean, rotation vector, 2 g - 1]."""
        mean = pose_B7.new_tensor(self.spec.state_scaling.offset[:3])
        reference = pose_B7.new_tensor(self.tiny.reference_euler)
        rotation = relative_rotation(reference, pose_B7[:, 3:6])
        return torch.cat([(pose_B7[:, :3] - mean) / 0.1, rotation, 2.0 * pose_B7[:, 6:7] - 1.0], 1)

    def predicted_waypoint_m(self, cond: Cond) -> Tensor:
        """Predicted waypoint positions [B, 3] in metres, base frame (for figures and tests)."""
        waypoint = cond.extras["waypoint"][:, :3]
        return waypoint * 0.1 + waypoint.new_tensor(self.spec.state_scaling.offset[:3])

    def velocity(self, cond: Cond, x_BCD: Tensor, t_B: Tensor) -> Tensor:
        v: Tensor = self.head(cond, x_BCD, t_B)
        return v

    def sft_loss(self, batch: TrainingBatch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Flow matching plus the waypoint loss; see ``FlowPolicy``."""
        cond = self.embed(batch.inputs)
        flow_B = self.flow_errors(
            cond, batch.actions_BCD, batch.noise_samples, batch.cumulative_weight, generator
        ).mean(1)
        flow = (flow_B * batch.weight_B).sum() / batch.weight_B.sum().clamp_min(1e-6)
        target = self.to_units(batch.waypoint_B7)
        error = cond.extras["waypoint"] - target[:, :6]
        pose_B = F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1, reduction="none").mean(1)
        opening_B = F.binary_cross_entropy_with_logits(
            cond.extras["waypoint_opening"], (batch.waypoint_B7[:, 6] > 0.5).float(), reduction="none"
        )
        weight = batch.waypoint_weight_B
        waypoint = ((pose_B + 0.1 * opening_B) * weight).sum() / weight.sum().clamp_min(1e-6)
        distance_mm = (100.0 * error[:, :3].detach().norm(dim=1) * weight).sum() / weight.sum().clamp_min(1e-6)
        return {
            "loss": flow + self.tiny.waypoint_weight * waypoint,
            "flow": flow.detach(),
            "waypoint": waypoint.detach(),
            "waypoint_mm": distance_mm,
        }
