"""What trials on the same placements say: each policy's rate, each against the first, and several seeds together."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prophrl_models.trials.paired import METHOD, PairedOutcomes
from prophrl_models.trials.statistics import Interval, SuccessRate
from prophrl_nodes.studies.fast_placements import fast_placements
from prophrl_nodes.studies.fast_trials import Contender, FastTrial, StudyError, TrialSettings, distinct_names

FORMAT = 1


@dataclass(frozen=True)
class PolicyResult:
    """All trials of one policy."""

    contender: Contender
    trials: tuple[FastTrial, ...]

    @property
    def outcomes(self) -> list[bool]:
        return [trial.success for trial in self.trials]

    @property
    def rate(self) -> SuccessRate:
        return SuccessRate(sum(self.outcomes), len(self.trials))

    @property
    def success_duration_s(self) -> float | None:
        """Mean over the successful trials; None without one."""
        won = [trial.duration_s for trial in self.trials if trial.success]
        return statistics.fmean(won) if won else None

    @property
    def unmet(self) -> dict[str, int]:
        """Failed trials by the condition that did not hold, most frequent first; a trial may count several times."""
        return dict(Counter(name for trial in self.trials for name in trial.unmet).most_common())

    @property
    def stops(self) -> dict[str, int]:
        """Failed trials by what ended them."""
        return dict(Counter(trial.stop for trial in self.trials if trial.stop).most_common())


@dataclass(frozen=True)
class Summary:
    """A finished study; ``names[k]`` tells policies of one name apart."""

    settings: TrialSettings
    results: tuple[PolicyResult, ...]

    @property
    def names(self) -> list[str]:
        return distinct_names([result.contender.name for result in self.results])

    @property
    def pairs(self) -> list[PairedOutcomes]:
        """Each policy but the first against the first."""
        first = self.results[0].outcomes
        return [PairedOutcomes.of(first, result.outcomes) for result in self.results[1:]]

    @property
    def families(self) -> dict[str, list[int]]:
        """Places of policies that share a name, for names that occur more than once."""
        places: dict[str, list[int]] = {}
        for k, result in enumerate(self.results):
            places.setdefault(result.contender.name, []).append(k)
        return {name: found for name, found in places.items() if len(found) > 1}

    def over_seeds(self, name: str) -> dict[str, Any]:
        """Rates, and differences to the first policy, of one name: mean, sample deviation, least and most.

        The deviation is between trainings; that of the trials is in each policy's own interval.
        """
        rates = [self.results[k].rate.rate for k in self.families[name]]
        against = [self.pairs[k - 1].difference for k in self.families[name] if k > 0]
        return {
            "name": name,
            "count": len(rates),
            "rate": _spread(rates),
            "difference": _spread(against) if self.results[0].contender.name != name else None,
        }

    def as_json(self) -> dict[str, Any]:
        """Everything, placements included."""
        names = self.names
        placements = fast_placements(self.settings.task, self.settings.trials, self.settings.seed)
        return {
            "format": FORMAT,
            "settings": asdict(self.settings),
            "paired_interval": METHOD,
            "placements": [placement.to_json() for placement in placements],
            "policies": [_policy(name, result) for name, result in zip(names, self.results, strict=True)],
            "pairs": [_pair(names[0], name, pair) for name, pair in zip(names[1:], self.pairs, strict=True)],
            "seeds": [self.over_seeds(name) for name in self.families],
        }


def read_outcomes(path: Path, task: str) -> dict[str, list[bool]]:
    """Outcomes by checkpoint identity from a file that ``Summary.as_json`` was written to.

    Raises:
        StudyError: no such file, another task, or not such a file.
    """
    try:
        raw = json.loads(path.read_text())
        if raw["format"] != FORMAT:
            raise StudyError(f"{path} has format {raw['format']}, this version reads {FORMAT}; run the trials again")
        of_task = raw["settings"]["task"]
        found = {
            policy["checkpoint_id"]: [bool(trial["success"]) for trial in policy["outcomes"]]
            for policy in raw["policies"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, StudyError):
            raise
        raise StudyError(f"{path} is no result of prophrl trials fast: {error!r}") from error
    if of_task != task:
        raise StudyError(f"{path} holds trials of {of_task}, not of {task}")
    return found


def plain_interval(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _policy(name: str, result: PolicyResult) -> dict[str, Any]:
    rate = result.rate
    return {
        "name": name,
        "group": result.contender.name,
        "folder": str(result.contender.folder),
        "checkpoint_id": result.contender.checkpoint_id,
        "successes": rate.successes,
        "trials": rate.trials,
        "rate": rate.rate,
        "interval_95": plain_interval(rate.interval),
        "success_duration_s": result.success_duration_s,
        "unmet": result.unmet,
        "stops": result.stops,
        "outcomes": [asdict(trial) for trial in result.trials],
    }


def _pair(first: str, second: str, pair: PairedOutcomes) -> dict[str, Any]:
    return {
        "first": first,
        "second": second,
        **asdict(pair),
        "difference": pair.difference,
        "interval_95": plain_interval(pair.interval()),
        "p_mcnemar": pair.p_value,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": statistics.fmean(values),
        "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
        "least": min(values),
        "most": max(values),
    }
