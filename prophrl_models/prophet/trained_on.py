"""Which episodes a world model has been trained on, by name: what its checkpoint remembers and its evaluation asks.

A dataset's hash changes when it is built anew, exported, filtered or enlarged; the names of its episodes do not. The
provenance key ``trained_episodes`` holds a short hash of every name, of the run itself and of those it went on from; an
episode that was made from another one counts as the other.
Checkpoints from before there was this key are judged by the split that they recorded, as far as that goes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from prophrl_models.data.split import is_held_out, original_name
from prophrl_models.training.checkpoint import CheckpointError

RECORD = "trained_episodes"
"""The key in a checkpoint's provenance, and in that of a codec."""
CODEC_RECORD = "codec_trained_episodes"
"""The key in a checkpoint's provenance for the episodes that its codec was trained on."""
DIGEST_BYTES = 8
"""Of each name's SHA-256. Among a million episodes a wrong match of a hundred asked for has a chance of 5e-12."""

Answer = Literal["yes", "no", "unknown"]


@dataclass(frozen=True)
class OldTraining:
    """A training that did not record its episodes.

    Attributes:
        checkpoint: where it is known from, in words.
        dataset_hashes: of the datasets it used.
        fraction, seed: the split that it left out of each (``data.split``); None where that was not recorded.
    """

    checkpoint: str
    dataset_hashes: tuple[str, ...] = ()
    fraction: float | None = None
    seed: int = 0

    def used(self, episode_id: str, dataset_hash: str) -> Answer:
        """Whether it used an episode of a dataset."""
        if self.fraction is None:
            return "unknown"
        if is_held_out(episode_id, self.fraction, self.seed):
            return "no"  # a name that is held out is held out of every dataset
        return "yes" if dataset_hash in self.dataset_hashes else "unknown"


@dataclass(frozen=True)
class TrainedOn:
    """The episodes behind a world model's weights.

    Attributes:
        digests: short hashes of the names of the episodes.
        old: trainings behind it whose episodes are not in ``digests``.
    """

    digests: frozenset[bytes] = frozenset()
    old: tuple[OldTraining, ...] = ()

    @staticmethod
    def of(episode_ids: Iterable[str]) -> TrainedOn:
        """A training on the episodes of these names."""
        return TrainedOn(frozenset(map(_digest, episode_ids)))

    @staticmethod
    def of_provenance(provenance: Mapping[str, Any], checkpoint: str) -> TrainedOn:
        """What a checkpoint says.

        Args:
            checkpoint: its name, for messages.

        Raises:
            CheckpointError: its record is damaged.
        """
        raw = provenance.get(RECORD)
        if raw is None:
            if "converted" in provenance:
                return TrainedOn()  # published weights have seen none of our episodes
            return TrainedOn(old=_old_trainings(provenance, checkpoint))
        return TrainedOn._of_json(raw, RECORD, checkpoint)

    @staticmethod
    def of_codec(provenance: Mapping[str, Any], checkpoint: str) -> TrainedOn:
        """What a world model's checkpoint says of its codec; arguments and errors as ``of_provenance``."""
        raw = provenance.get(CODEC_RECORD)
        if raw is None:
            published = "converted" in provenance
            return TrainedOn() if published else TrainedOn(old=(OldTraining(f"the codec of {checkpoint}"),))
        return TrainedOn._of_json(raw, CODEC_RECORD, checkpoint)

    @staticmethod
    def _of_json(raw: Any, key: str, checkpoint: str) -> TrainedOn:
        try:
            packed = base64.b64decode(raw["digests"], validate=True)
            if len(packed) != DIGEST_BYTES * int(raw["count"]):
                raise ValueError(f"{len(packed)} bytes for {raw['count']} episodes")
            digests = frozenset(packed[k : k + DIGEST_BYTES] for k in range(0, len(packed), DIGEST_BYTES))
            old = tuple(OldTraining(**{**o, "dataset_hashes": tuple(o["dataset_hashes"])}) for o in raw["old"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint}: {key} in its provenance cannot be read ({error!r}); was it edited by hand?"
            ) from error
        return TrainedOn(digests, old)

    def to_json(self) -> dict[str, Any]:
        """For the provenance."""
        packed = base64.b64encode(b"".join(sorted(self.digests))).decode()
        return {
            "digest": f"first {DIGEST_BYTES} bytes of the SHA-256 of each episode's id, base64",
            "count": len(self.digests),
            "digests": packed,
            "old": [asdict(training) for training in self.old],
        }

    def joined(self, other: TrainedOn) -> TrainedOn:
        """The episodes of two trainings, one after the other."""
        return TrainedOn(self.digests | other.digests, tuple(dict.fromkeys((*self.old, *other.old))))

    def used(self, episode_id: str, dataset_hash: str) -> Answer:
        """Whether the weights have seen an episode.

        Args:
            dataset_hash: of the dataset in which it lies now; only needed for old trainings.
        """
        answers = {training.used(episode_id, dataset_hash) for training in self.old}
        if _digest(episode_id) in self.digests or "yes" in answers:
            return "yes"
        return "unknown" if "unknown" in answers else "no"


def _digest(episode_id: str) -> bytes:
    return hashlib.sha256(original_name(episode_id).encode()).digest()[:DIGEST_BYTES]


def _old_trainings(provenance: Mapping[str, Any], checkpoint: str) -> tuple[OldTraining, ...]:
    split = provenance.get("held_out") or {}
    fraction = float(split["fraction"]) if "fraction" in split else None
    hashes = tuple(map(str, provenance.get("dataset_hashes", ())))
    found = [OldTraining(checkpoint, hashes, fraction, int(split.get("seed", 0)))]
    parent = provenance.get("parent")
    if parent is not None:
        found.append(OldTraining(f"{parent.get('checkpoint', 'unknown')}, the parent of {checkpoint}"))
    return tuple(found)
