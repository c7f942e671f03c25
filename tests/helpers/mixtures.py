"""Small folders of several published datasets, and mixtures of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prophrl_models.data.mixture_config import MixtureConfig, SourceConfig
from prophrl_models.data.windows import WindowRule
from tests.helpers.published_datasets import motion, write_lerobot_set, write_rlds_set

LENGTHS = {"austin_sailor": (8, 10, 6), "libero": (9, 7), "bridge": (8, 6, 7, 9)}
"""Frames of the episodes that are written (usable frames, for sets without leading steps)."""


@dataclass(frozen=True)
class Published:
    """Where each dataset was written."""

    austin_sailor: Path
    libero: Path
    bridge: Path
    agibot: Path

    def source(self, name: str, **changes: Any) -> SourceConfig:
        """One of them as a source."""
        return replace(SourceConfig(name, name, getattr(self, name)), **changes)

    def mixture(self, *names: str, **changes: Any) -> MixtureConfig:
        """A mixture with short windows (3 past frames, 4 actions)."""
        chosen = names or ("austin_sailor", "libero", "bridge")
        sources = changes.pop("sources", tuple(self.source(name) for name in chosen))
        defaults: dict[str, Any] = {
            "window": WindowRule(history=3, actions=4),
            "batch_size": 3,
            "seed": 5,
            "rates": "native",
            "shuffle_episodes": 2,
            "open_episodes": 2,
        }
        return MixtureConfig(sources, **{**defaults, **changes})


def publish(root: Path) -> Published:
    """RLDS folders of two datasets, LeRobot folders of two more."""
    made = {name: [motion(steps, 10 * i) for i, steps in enumerate(LENGTHS[name])] for name in LENGTHS}
    sailor = write_rlds_set(
        root / "a", "austin_sailor_dataset_converted_externally_to_rlds", made["austin_sailor"], shards=2
    )
    libero = write_rlds_set(root / "b", "libero_spatial_no_noops", made["libero"])
    write_lerobot_set(root / "bridge", "bridge", "v2.1", 5, made["bridge"], "image")
    write_lerobot_set(root / "agibot", "agibot", "v3.0", 30, [motion(16, 3), motion(13, 4)])
    return Published(sailor, libero, root / "bridge", root / "agibot")
