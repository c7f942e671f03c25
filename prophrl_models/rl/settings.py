"""Settings of a reinforcement run: dataclasses filled from YAML (``config/rl/``); a wrong key or value is refused."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prophrl_models.policies.grip import CLOSE_BELOW
from prophrl_models.rl.advantages import Deviation
from prophrl_models.training.settings import TrainingError, read_settings, settings_from

Objective = Literal["fa_grpo", "flow_grpo"]
FlowScaleForm = Literal["none", "straight_through", "tempered", "per_step", "per_step_matched", "literal"]
What = Literal["all", "head", "lora"]
Reward = Literal["verdict", "score"]


@dataclass(frozen=True)
class RolloutOptions:
    """How experience is gathered.

    Attributes:
        prompts: groups that an update wants (start states with mixed outcomes).
        group_size: rollouts of each start state, G.
        calls: policy calls of a rollout, S.
        keep: actions executed of each chunk, CH; 0: the whole chunk.
        close_below: openings below it are executed as closed, as on the robot (``grip.firm_grip``); log-probabilities
            stay those of what the policy said.
        num_steps: denoising steps K; 0: the policy's own.
        time_shift: 1: the uniform grid; above: more of the K steps near the noise (``sde.shifted_grid``).
        noise_level: a of the SDE. It belongs to K: ``prophrl rl check`` measures what it costs.
        groups_at_once: groups advanced together; one unit of work, whoever does it.
        reward: what advantages are made of: the judge's "verdict", 1 or 0, as in the paper; or its "score", which for a
            classifier is a probability and tells more of the rollouts apart.
        deviation: what advantages are divided by: the deviation of the "group", as in the paper, or one "pooled" over
            the groups of a round; for scores, so that groups that hardly differ do not count as much as others.
        keep_low, keep_high: groups whose mean reward is outside are dropped and others drawn for them.
        max_rounds: rounds of drawing; then the update makes do with what there is.
        world_precision: of the world model's arithmetic; "auto": bf16 on graphics cards, fp32 elsewhere. CPUs with
            bfloat16 instructions take half the time with bf16.
        video_every: steps between rollout videos; 0: none.
    """

    prompts: int = 32
    group_size: int = 8
    calls: int = 6
    keep: int = 0
    close_below: float = CLOSE_BELOW
    num_steps: int = 0
    time_shift: float = 1.0
    noise_level: float = 0.5
    groups_at_once: int = 4
    reward: Reward = "verdict"
    deviation: Deviation = "group"
    keep_low: float = 0.1
    keep_high: float = 0.9
    max_rounds: int = 4
    world_precision: Literal["auto", "bf16", "fp32"] = "auto"
    video_every: int = 5


@dataclass(frozen=True)
class UpdateOptions:
    """How experience changes the policy.

    Attributes:
        objective: "fa_grpo" (a ratio for each action number) or "flow_grpo" (a ratio for each denoising step).
        flow_scale: where the weights of denoising steps act, see ``losses``; "none": nowhere.
        power, alpha, w_min, w_max: FlowScale's weights.
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
        beta: weight of the exact KL divergence to the policy the run started from.
        learning_rate, betas, weight_decay, gradient_clip: AdamW.
        warmup: optimiser steps over which the learning rate rises to its value; 0: it is there from the first.
        mini_batch: rollouts of one optimiser step.
        micro_batch: policy calls (not rollouts) of one pass; smaller needs less memory and changes nothing else.
        epochs: passes over the experience.
        target_kl: the rest of a step's updates is left out once the mean exact KL of an action number to the policy
            that gathered the experience exceeds this; 0: never.
        trainable: "all" parameters, the flow "head" alone, or head and adapters ("lora", for large backbones).
        lora_rank: rank of the adapters.
        precision: "bf16" computes the forward pass in bfloat16 (log-probabilities stay float32).
        gradient_checkpointing: recompute activations in the backward pass.
    """

    objective: Objective = "fa_grpo"
    flow_scale: FlowScaleForm = "straight_through"
    power: float = 0.5
    alpha: float = 0.3
    w_min: float = 0.3
    w_max: float = 2.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    beta: float = 0.04
    learning_rate: float = 5.0e-6
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    mini_batch: int = 128
    micro_batch: int = 48
    epochs: int = 2
    target_kl: float = 0.0
    trainable: What = "all"
    lora_rank: int = 32
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class WatchOptions:
    """How a run is watched and when it stops.

    Attributes:
        evaluate_every: steps between evaluations on held-out starts (ODE sampling, as deployed); 0: none.
        held_out: start states kept away from training for this.
        evaluate_rollouts: rollouts of each held-out start.
        audit_every: steps between audits, where the caller brings one; 0: none.
        max_reference_kl: the run stops when the mean exact KL of an action number to the first policy exceeds this;
            0: never.
        patience_empty: the run stops after so many steps in a row without one group of mixed outcome.
        save_every: steps between numbered checkpoints beside the best and the last; 0: none.
        report_every: steps between reports; 0: only at the end.
        tensorboard: write event files beside ``log.jsonl``.
    """

    evaluate_every: int = 5
    held_out: int = 16
    evaluate_rollouts: int = 1
    audit_every: int = 10
    max_reference_kl: float = 0.0
    patience_empty: int = 3
    save_every: int = 10
    report_every: int = 1
    tensorboard: bool = True


@dataclass(frozen=True)
class RlSettings:
    """One run.

    Attributes:
        steps: rollout batches, each followed by its updates.
        seed: of everything that is drawn.
        threads: CPU threads; 0 leaves torch's own choice.
        rollout, update, watch: see there.
    """

    steps: int = 100
    seed: int = 0
    threads: int = 0
    rollout: RolloutOptions = field(default_factory=RolloutOptions)
    update: UpdateOptions = field(default_factory=UpdateOptions)
    watch: WatchOptions = field(default_factory=WatchOptions)

    def __post_init__(self) -> None:
        r, u, w = self.rollout, self.update, self.watch
        at_least = {
            "steps": (self.steps, 1),
            "rollout.prompts": (r.prompts, 1),
            "rollout.group_size": (r.group_size, 2),
            "rollout.calls": (r.calls, 1),
            "rollout.groups_at_once": (r.groups_at_once, 1),
            "rollout.max_rounds": (r.max_rounds, 1),
            "update.mini_batch": (u.mini_batch, 1),
            "update.micro_batch": (u.micro_batch, 1),
            "update.epochs": (u.epochs, 1),
            "update.warmup": (u.warmup, 0),
            "watch.held_out": (w.held_out, 1 if w.evaluate_every else 0),
            "watch.evaluate_rollouts": (w.evaluate_rollouts, 1),
            "watch.patience_empty": (w.patience_empty, 1),
        }
        for name, (value, least) in at_least.items():
            if value < least:
                raise TrainingError(f"{name} must be at least {least}, got {value}")
        positive = {
            "rollout.noise_level": r.noise_level,
            "rollout.time_shift": r.time_shift,
            "update.learning_rate": u.learning_rate,
        }
        for name, number in positive.items():
            if not (math.isfinite(number) and number > 0.0):
                raise TrainingError(f"{name} must be a positive number, got {number}; see the presets in config/rl/")
        if not 0.0 <= r.keep_low < r.keep_high <= 1.0:
            raise TrainingError(
                f"rollout needs 0 <= keep_low < keep_high <= 1, got {r.keep_low} and {r.keep_high}; "
                "the published filter is 0.1 and 0.9"
            )
        if not 0.0 <= r.close_below <= 1.0:
            raise TrainingError(f"rollout.close_below is an opening, 0 to 1, got {r.close_below}; 0 takes all as said")
        if not 0.0 < u.clip_low < 1.0 or u.clip_high <= 0.0 or u.beta < 0.0:
            raise TrainingError(
                f"update needs 0 < clip_low < 1, clip_high > 0 and beta >= 0, got {u.clip_low}, {u.clip_high}, {u.beta}"
            )

    @property
    def updates_per_step(self) -> int:
        """Optimiser steps on each full rollout batch."""
        rollouts = self.rollout.prompts * self.rollout.group_size
        return self.update.epochs * max(1, round(rollouts / self.update.mini_batch))

    def to_json(self) -> dict[str, Any]:
        """Plain values, as provenance and reports hold them."""
        return dataclasses.asdict(self)


def load_settings(path: str | Path) -> RlSettings:
    """Read a YAML file with the fields of ``RlSettings``; what is left out keeps its default.

    Raises:
        TrainingError: no such file, or a key, type or value that does not belong.
    """
    return read_settings(RlSettings, path)


def settings_of(raw: Any, where: str = "settings") -> RlSettings:
    """Settings from nested mappings; see ``load_settings``."""
    return settings_from(RlSettings, raw, where)
