"""Ablations of the world model: which arms there are, what each trains with, and whether they differ at all.

An arm is the same training with some of our modules left out of the network. Two arms that would train the same
network are refused: a table with the same row twice under two names says nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prophrl_models.prophet.config import NetworkConfig, preset
from prophrl_models.prophet.train_data import network_config
from prophrl_models.prophet.train_settings import ProphetTrainConfig
from prophrl_models.training.settings import TrainingError

FULL = "full"


class AblationError(ValueError):
    """Arms, seeds or results that make no table; the message says what to change."""


@dataclass(frozen=True)
class Arm:
    """One row.

    Attributes:
        name: on the command line, in folders and tables.
        meaning: what is different, for people.
        network: fields of ``NetworkConfig`` that make the difference.
    """

    name: str
    meaning: str
    network: Mapping[str, Any]


_NO_NUMBERS: Mapping[str, Any] = {"scalar_actions": False}
_NO_FRAMES: Mapping[str, Any] = {"action_frames": "none"}
_NO_MEMORY: Mapping[str, Any] = {"memory": None}
_NO_HISTORY: Mapping[str, Any] = {**_NO_MEMORY, "known_alone": True}
_NO_ANCHOR: Mapping[str, Any] = {"anchored": False}

ARMS = {
    arm.name: arm
    for arm in (
        Arm(FULL, "history, action frames and action numbers", {}),
        Arm("no_history", "actions as numbers and frames, and the known frame alone", _NO_HISTORY),
        Arm("no_memory", "actions as numbers and frames, and what the known latent shows of the past", _NO_MEMORY),
        Arm("no_frames", "history and action numbers, no action frames", _NO_FRAMES),
        Arm("no_numbers", "history and action frames, no action numbers", _NO_NUMBERS),
        Arm(
            "no_actions_at_all",
            "history alone: it continues the video without being told",
            {**_NO_NUMBERS, **_NO_FRAMES},
        ),
        Arm(
            "base",
            "the unmodified architecture: image to video, none of our modules",
            {**_NO_NUMBERS, **_NO_FRAMES, **_NO_MEMORY, **_NO_ANCHOR},
        ),
        Arm("no_anchor", "everything, but the clip itself is learned and not the change", _NO_ANCHOR),
    )
}
DEFAULT_ARMS = (FULL, "no_history", "no_frames", "no_actions_at_all", "base")


def chosen_arms(names: Sequence[str]) -> tuple[Arm, ...]:
    """Arms by name, in this order; the first is what the others are compared with.

    Raises:
        AblationError: an unknown name, one twice, or fewer than two.
    """
    for name in names:
        if name not in ARMS:
            raise AblationError(f"no arm {name!r}; choose from {', '.join(ARMS)}")
    if len(set(names)) != len(names) or len(names) < 2:
        raise AblationError(f"an ablation needs at least two different arms, got {', '.join(names) or 'none'}")
    return tuple(ARMS[name] for name in names)


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds, each of which trains every arm once.

    Raises:
        AblationError: none, one twice, or a negative one.
    """
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise AblationError(f"seeds must be different numbers from 0 on, got {list(seeds)}; 0 1 2 is usual")
    return tuple(seeds)


def arm_settings(base: ProphetTrainConfig, arms: Sequence[Arm]) -> dict[str, ProphetTrainConfig]:
    """What each arm trains with: ``base``, less what the arm leaves out.

    Raises:
        AblationError: arms that would be the same network, no held-out episodes, or settings that train on a mixture.
        TrainingError: unknown preset or network fields.
    """
    if base.held_out <= 0.0:
        raise AblationError("nothing is held out to measure on; --set held_out=0.1 keeps a tenth of the episodes back")
    if base.mixture:
        raise AblationError("ablations train on dataset folders; these settings name a mixture")
    settings = {
        arm.name: dataclasses.replace(base, network={**base.network, **arm.network}, mixture="") for arm in arms
    }
    seen: dict[NetworkConfig, str] = {}
    for name, config in settings.items():
        network = network_of(config)
        if network in seen:
            raise AblationError(
                f"arms {seen[network]} and {name} are the same network: the settings have already left out what "
                f"{name} leaves out; drop the arm, or switch the module on with --set"
            )
        seen[network] = name
    return settings


def network_of(config: ProphetTrainConfig) -> NetworkConfig:
    """The network that settings train.

    Raises:
        TrainingError: unknown preset or fields.
    """
    try:
        return network_config(preset(config.size).network, config.network)
    except ValueError as error:
        raise TrainingError(str(error)) from error


def finite(values: Sequence[float | None]) -> list[float]:
    """The numbers among values from JSON, where NaN is null."""
    return [float(value) for value in values if value is not None and math.isfinite(value)]
