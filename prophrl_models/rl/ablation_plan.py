"""Plans of a reinforcement ablation: one YAML file says what all runs share, and what each arm changes.

common:                      as for ``prophrl rl run``; arguments of the command line come before these
  policy: runs/sft/policy
  world: runs/world/prophet
  judge: classifier:runs/judge/classifier
  preset: small              settings by name or YAML file
  steps: 40
  instructions: []           only starts with one of these
settings:                    changes of the preset for all arms, by dotted name
  watch.evaluate_every: 10
seeds: [0, 1, 2]             every arm is trained with each
baseline: fa_grpo            the arm that the others are compared with, beside the policy they all start from
twin:                        trials on the digital twin; left out: imagined success on held-out starts is all there is
  task: place_cube
  trials: 100
arms:
  fa_grpo: {update.flow_scale: none}
  flow_grpo: {meaning: a ratio for each denoising step, update.objective: flow_grpo, update.flow_scale: none}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prophrl_models.rl.settings import RlSettings, settings_of
from prophrl_models.training.overrides import overridden, plain_settings
from prophrl_models.training.settings import settings_from

START = "start"
"""Name of the policy that all arms start from."""
MEANING = "meaning"


class PlanError(ValueError):
    """A plan that cannot be run; the message says what to change."""


@dataclass(frozen=True)
class Common:
    """What all runs share, see ``prophrl rl run``; empty where the command line is to say it.

    Attributes:
        preset: settings by name, or a YAML file.
        steps: 0: as the settings say.
        world_steps: passes of the world model for a chunk; 0: its own number.
    """

    policy: str = ""
    world: str = ""
    judge: str = ""
    preset: str = "small"
    steps: int = 0
    instructions: tuple[str, ...] = ()
    world_steps: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class TwinTrials:
    """Trials of every policy in the fast lane, see ``prophrl trials fast``."""

    task: str
    trials: int = 100
    execute: int = 8
    seed: int = 0
    workers: int = 2


@dataclass(frozen=True)
class RlArm:
    """One arm: its name, what it changes by dotted names of ``RlSettings``, and what that means."""

    name: str
    changes: Mapping[str, Any]
    meaning: str = ""


@dataclass(frozen=True)
class AblationPlan:
    """A plan; see the head of this file."""

    arms: tuple[RlArm, ...]
    baseline: str
    seeds: tuple[int, ...] = (0, 1, 2)
    common: Common = field(default_factory=Common)
    settings: Mapping[str, Any] = field(default_factory=dict)
    twin: TwinTrials | None = None

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(names) < 2 or len(set(names)) != len(names):
            raise PlanError(f"an ablation needs at least two arms of different names, got {', '.join(names) or 'none'}")
        for name in names:
            if name == START or not name or not all(c.isalnum() or c in "_-." for c in name):
                raise PlanError(f"{name!r} cannot be an arm's name; take letters, digits, _ - . and not {START!r}")
        if self.baseline not in names:
            raise PlanError(f"the baseline {self.baseline!r} is none of the arms {', '.join(names)}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise PlanError(f"seeds must be different numbers from 0 on, got {list(self.seeds)}")
        if self.twin is not None and (self.twin.trials < 1 or self.twin.execute < 1):
            raise PlanError(f"trials and execute must be positive, got {self.twin.trials} and {self.twin.execute}")

    def only(self, names: tuple[str, ...]) -> AblationPlan:
        """The plan with some of its arms, the baseline among them.

        Raises:
            PlanError: an unknown name, or too few.
        """
        known = {arm.name: arm for arm in self.arms}
        if unknown := [name for name in names if name not in known]:
            raise PlanError(f"no arm {', '.join(unknown)} in the plan; it has {', '.join(known)}")
        if self.baseline not in names:
            raise PlanError(f"the baseline {self.baseline} must be among the arms")
        return dataclasses.replace(self, arms=tuple(known[name] for name in names))

    def check(self) -> None:
        """Refuse a plan that does not say what all runs need.

        Raises:
            PlanError: names what is missing.
        """
        if missing := [name for name in ("policy", "world", "judge") if not getattr(self.common, name)]:
            raise PlanError(f"the plan lacks {', '.join(missing)}; say it under common, or with --{missing[0]}")


def read_plan(path: str | Path) -> AblationPlan:
    """Read a plan.

    Raises:
        PlanError: no such file, not YAML, or not a plan.
        TrainingError: an unknown or wrong field.
    """
    path = Path(path)
    if not path.is_file():
        raise PlanError(f"no plan at {path}; config/rl/ablation.yaml is one")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise PlanError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, Mapping) or not isinstance(raw.get("arms"), Mapping):
        raise PlanError(f"{path} is no plan: it needs arms, a mapping of names to changed settings")
    if unknown := sorted(set(raw) - {"common", "settings", "seeds", "baseline", "twin", "arms"}):
        raise PlanError(
            f"{path}: unknown key {', '.join(unknown)}; known are common, settings, seeds, baseline, twin, arms"
        )
    arms = []
    for name, changes in raw["arms"].items():
        values = dict(changes or {})
        arms.append(RlArm(str(name), {k: v for k, v in values.items() if k != MEANING}, str(values.get(MEANING, ""))))
    try:
        seeds = tuple(int(seed) for seed in raw.get("seeds", (0, 1, 2)))
    except (TypeError, ValueError) as error:
        raise PlanError(f"{path}: seeds must be a list of whole numbers, got {raw.get('seeds')!r}") from error
    return AblationPlan(
        arms=tuple(arms),
        baseline=str(raw.get("baseline", arms[0].name if arms else "")),
        seeds=seeds,
        common=settings_from(Common, raw.get("common") or {}, f"{path.name}: common"),
        settings=dict(raw.get("settings") or {}),
        twin=settings_from(TwinTrials, raw["twin"], f"{path.name}: twin") if raw.get("twin") else None,
    )


def arm_settings(plan: AblationPlan, preset: RlSettings) -> dict[str, RlSettings]:
    """What each arm runs with, in the plan's order.

    Raises:
        TrainingError: a name or value that does not belong.
        PlanError: two arms with equal settings.
    """
    base = plain_settings(preset)
    if plan.common.steps:
        base["steps"] = plan.common.steps
    settings = {
        arm.name: settings_of(overridden(overridden(base, plan.settings), arm.changes), f"arm {arm.name}")
        for arm in plan.arms
    }
    names = list(settings)
    for k, name in enumerate(names):
        for other in names[:k]:
            if settings[name] == settings[other]:
                raise PlanError(f"arms {other} and {name} have equal settings; change or drop one")
    return settings
