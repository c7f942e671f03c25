"""What will be tried, fixed before the first trial: placements, order and, sealed, which policy is which.

Every policy meets every placement, as many times as there are runs. Placements are visited in a random order, and at
each placement the policies come in a random order, so that drifting light, a warming arm or a learning operator hit
all of them alike, and differences can be tested in pairs. The plan names policies only by letters; a key file says
who is who, and the plan holds a hash of the key, so that neither can be changed once trials have begun.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prophrl_models.data.files import write_json

FORMAT = "prophrl-trial-plan/1"
KEY_FORMAT = "prophrl-trial-key/1"
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # without I and O, which look like figures


class PlanError(ValueError):
    """A plan that cannot be made or trusted; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class PlannedTrial:
    """One trial to come: ``placement`` indexes the plan's placements, ``label`` is the blinded policy."""

    trial_id: str
    placement: int
    label: str
    run: int


@dataclass(frozen=True)
class TrialPlan:
    """A frozen plan.

    Attributes:
        task, instruction: what the policies are asked to do.
        placements: objects to be placed, as JSON objects; opaque here.
        trials: in the order they are to be run.
        max_duration_s: a trial that lasts longer has failed.
        key_sha256: hash of the sealed key.
        seed: made this order.
    """

    task: str
    instruction: str
    placements: tuple[Mapping[str, Any], ...]
    trials: tuple[PlannedTrial, ...]
    max_duration_s: float
    key_sha256: str
    seed: int

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted({trial.label for trial in self.trials}))

    @property
    def plan_hash(self) -> str:
        """Identifies this plan; every result carries it."""
        return _sha256(self._body())

    def trial(self, trial_id: str) -> PlannedTrial:
        """The trial of this id.

        Raises:
            PlanError: no such trial.
        """
        for trial in self.trials:
            if trial.trial_id == trial_id:
                return trial
        first, last = self.trials[0].trial_id, self.trials[-1].trial_id
        raise PlanError(f"no trial {trial_id!r} in this plan, it has {first} to {last}")

    def placement(self, trial: PlannedTrial) -> Mapping[str, Any]:
        """What has to stand where in this trial."""
        return self.placements[trial.placement]

    @classmethod
    def load(cls, path: str | Path) -> TrialPlan:
        """Read a plan and make sure that nobody changed it.

        Raises:
            PlanError: missing, damaged, or changed after it was written.
        """
        raw = _read(Path(path), FORMAT)
        stored = raw.pop("plan_hash", "")
        if _sha256(raw) != stored:
            raise PlanError(f"{path} was changed after it was frozen; restore the original, or start with a new plan")
        del raw["format"]
        raw["trials"] = tuple(PlannedTrial(**trial) for trial in raw["trials"])
        raw["placements"] = tuple(raw["placements"])
        return cls(**raw)

    def save(self, path: str | Path) -> None:
        """Write the plan; a file that exists is never replaced by another plan.

        Raises:
            PlanError: another plan is there already.
        """
        path = Path(path)
        if path.exists():
            if TrialPlan.load(path) != self:
                raise PlanError(f"{path} holds another plan and plans are frozen; choose another file")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**self._body(), "plan_hash": self.plan_hash})

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(self)}))
        return body


@dataclass(frozen=True)
class PlanKey:
    """Which policy hides behind which letter; ``salt`` keeps the hash in the plan from being guessed."""

    policies: Mapping[str, str]
    salt: str

    @property
    def sha256(self) -> str:
        return _sha256({"policies": dict(self.policies), "salt": self.salt})

    def check(self, plan: TrialPlan) -> None:
        """Make sure that this key belongs to a plan.

        Raises:
            PlanError: it does not, or was changed.
        """
        if self.sha256 != plan.key_sha256:
            raise PlanError(
                f"this key hashes to {self.sha256[:12]}, the plan was sealed with {plan.key_sha256[:12]}; "
                "find the key file that was written together with the plan"
            )

    @classmethod
    def load(cls, path: str | Path, plan: TrialPlan) -> PlanKey:
        """Read a key and make sure that it belongs to a plan.

        Raises:
            PlanError: missing, damaged, or of another plan.
        """
        raw = _read(Path(path), KEY_FORMAT)
        try:
            key = cls(dict(raw["policies"]), str(raw["salt"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(
                f"{path} is not a whole key file ({error!r}); find the one written with the plan"
            ) from error
        key.check(plan)
        return key

    def save(self, path: str | Path) -> None:
        """Write the key, readable by its owner only.

        Raises:
            PlanError: a file is there already.
        """
        path = Path(path)
        if path.exists():
            raise PlanError(f"{path} exists already; a key is never overwritten, choose another file")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        write_json(path, {"format": KEY_FORMAT, **asdict(self)})
        path.chmod(0o600)


def make_plan(
    task: str,
    instruction: str,
    placements: Sequence[Mapping[str, Any]],
    policies: Sequence[str],
    *,
    seed: int,
    runs: int = 1,
    max_duration_s: float = 30.0,
    key_seed: int | None = None,
) -> tuple[TrialPlan, PlanKey]:
    """A randomised, interleaved, blinded plan and its key.

    Args:
        task, instruction: what the policies are asked to do.
        placements: what stands where, one JSON object per placement.
        policies: the names (checkpoint paths or ids) of one or more policies.
        seed: fixes the order; it is written into the plan.
        runs: how often every policy meets every placement.
        max_duration_s: time limit of a trial.
        key_seed: fixes which policy gets which letter, and is written nowhere; None draws it from the system.

    Raises:
        PlanError: nothing to place, no policy, a policy named twice, or more policies than letters.
    """
    if not placements:
        raise PlanError("a plan needs at least one placement; take the task's held-out placements")
    if not policies or len(set(policies)) != len(policies) or len(policies) > len(_LETTERS):
        raise PlanError(f"a plan needs 1 to {len(_LETTERS)} different policies, got {list(policies)}")
    if runs < 1 or not math.isfinite(max_duration_s) or max_duration_s <= 0:
        raise PlanError(f"a plan needs runs >= 1 and a positive time limit, got {runs} and {max_duration_s}")
    letters = list(_LETTERS[: len(policies)])
    sealed = secrets.SystemRandom() if key_seed is None else random.Random(f"prophrl trial key {key_seed}")
    owners = sealed.sample(policies, len(policies))
    key = PlanKey(dict(zip(letters, owners, strict=True)), f"{sealed.getrandbits(128):032x}")
    rng = random.Random(f"prophrl trial plan {seed}")
    order: list[tuple[int, str, int]] = []
    for run in range(runs):
        for placement in rng.sample(range(len(placements)), len(placements)):
            order += [(placement, letter, run) for letter in rng.sample(letters, len(letters))]
    width = max(3, len(str(len(order))))
    trials = tuple(PlannedTrial(f"t{k + 1:0{width}d}", *entry) for k, entry in enumerate(order))
    frozen = tuple(json.loads(json.dumps(placement)) for placement in placements)
    return TrialPlan(task, instruction, frozen, trials, float(max_duration_s), key.sha256, seed), key


def _read(path: Path, kind: str) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise PlanError(f"cannot read {path}: {error}") from error
    if not isinstance(raw, dict) or raw.get("format") != kind:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise PlanError(f"{path} has format {found!r}, expected {kind!r}")
    return raw


def _sha256(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
