"""Which logged episodes judge and world model were trained on: on those neither can be shown to be good."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from prophrl_models.data.dataset_format import EpisodeRow
from prophrl_models.data.split import original_name
from prophrl_models.prophet.trained_on import TrainedOn
from prophrl_models.reward.classifier_files import read_provenance
from prophrl_models.reward.factory import TRAINED, JudgeSettings
from prophrl_models.training.checkpoint import PROVENANCE


@dataclass(frozen=True)
class SeenInTraining:
    """What a check must not count in favour of judge or world.

    Attributes:
        judge: sources of the episodes on which a classifier's weights or threshold depend; empty for a
            vision-language model.
        world: the episodes behind the world model's weights.
    """

    judge: frozenset[str] = frozenset()
    world: TrainedOn = field(default_factory=TrainedOn)

    @staticmethod
    def of(judge: JudgeSettings, world: Path) -> SeenInTraining:
        """What a judge and a world model's folder say of themselves.

        Raises:
            JudgeError, CheckpointError: they do not say, or their record is damaged.
        """
        videos = read_provenance(judge.place)["videos"] if judge.kind in TRAINED else {}
        sources = frozenset(source for part in ("training", "validation") for source in videos.get(part, ()))
        made_of = json.loads((world / PROVENANCE).read_text(encoding="utf-8"))
        return SeenInTraining(sources, TrainedOn.of_provenance(made_of, str(world)))

    def by_judge(self, row: EpisodeRow) -> bool:
        """Also where the judge learned from the episode that this one was made from."""
        return original_name(row.source) in self.judge

    def by_world(self, row: EpisodeRow, dataset_hash: str) -> bool:
        """Also where an old checkpoint leaves it open."""
        return self.world.used(row.episode_id, dataset_hash) != "no"


NONE_SEEN = SeenInTraining()
