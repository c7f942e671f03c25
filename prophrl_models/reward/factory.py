"""Makes a judge from a few settings: the classifier, a model in this process, or a model behind a server."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prophrl_models.reward.judge import Judge, JudgeError

KINDS = ("classifier", "trajectory", "local", "server")
TRAINED = ("classifier", "trajectory")
"""Those that ``prophrl reward train`` makes."""


@dataclass(frozen=True)
class JudgeSettings:
    """Which judge.

    Attributes:
        kind: "classifier" (of videos), "trajectory" (a classifier of trajectories), "local" or "server".
        place: the classifier's or the model's folder, or the server's address.
        model: name of the model at a server.
        votes, needed: of a vision-language model, see ``votes.VoteRule``.
        style: prompt file for tasks that have none of their own, see ``prompts``.
        device: "cpu", "cuda" or empty for a GPU where there is one.
        timeout_s, deadline_s: of a server, see ``vlm_server.ServerOptions``.

    Raises:
        JudgeError: votes, style or time-outs that cannot be; the kind and the place are looked at when it is opened.
    """

    kind: str = "classifier"
    place: str = ""
    model: str = ""
    votes: int = 5
    needed: int = 3
    style: str = "bridge"
    device: str = ""
    timeout_s: float = 60.0
    deadline_s: float = 180.0

    def __post_init__(self) -> None:
        from prophrl_models.reward.prompts import prompts
        from prophrl_models.reward.votes import VoteRule

        VoteRule(self.votes, self.needed)
        if self.style not in prompts():
            raise JudgeError(f"no prompt file {self.style!r}; choose one of {', '.join(prompts())}")
        if not (0.0 < self.timeout_s < math.inf and 0.0 < self.deadline_s < math.inf):
            raise JudgeError(f"time-outs must be positive numbers, got {self.timeout_s} and {self.deadline_s}")


def open_judge(settings: JudgeSettings, **options: Any) -> Judge:
    """Load the judge; ``options`` go to ``LocalAnswerer`` or ``ServerOptions`` (time-outs, threads, sampling).

    Raises:
        JudgeError: an unknown kind, or the judge cannot be loaded.
    """
    if settings.kind not in KINDS:
        raise JudgeError(f"unknown kind of judge {settings.kind!r}; choose one of {', '.join(KINDS)}")
    if not settings.place:
        raise JudgeError(f"a judge of kind {settings.kind!r} needs its place: a folder, or the address of a server")
    if settings.kind in TRAINED:
        import torch

        from prophrl_models.reward.classifier_files import load_classifier, load_trajectory_judge

        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        load = load_classifier if settings.kind == "classifier" else load_trajectory_judge
        return load(settings.place, device)
    from prophrl_models.reward.votes import Answerer, VoteRule, VotingJudge

    answerer: Answerer
    if settings.kind == "local":
        from prophrl_models.reward.vlm_local import LocalAnswerer

        answerer = LocalAnswerer(settings.place, device=settings.device or None, **options)
    else:
        from prophrl_models.reward.vlm_server import ServerAnswerer, ServerOptions

        if not settings.model:
            raise JudgeError(f"the server at {settings.place} needs the name of a model; its /models lists them")
        waits = {"timeout_s": settings.timeout_s, "deadline_s": settings.deadline_s}
        answerer = ServerAnswerer(ServerOptions(settings.place, settings.model, **{**waits, **options}))
    return VotingJudge(answerer, VoteRule(settings.votes, settings.needed), style=settings.style)


def judge_identity(settings: JudgeSettings) -> dict[str, Any]:
    """What decides a judge's verdicts, as plain values: another one here is another judge.

    Of a server the model's name is all that can be known of its weights. Devices and time-outs are left out.

    Raises:
        JudgeError: the judge's folder does not hold its files.
    """
    identity: dict[str, Any] = {"kind": settings.kind, "place": settings.place, "model": settings.model}
    if settings.kind in TRAINED:
        from prophrl_models.reward.classifier_files import CONFIG, WEIGHTS

        return {**identity, "sha256": _files_hash([Path(settings.place) / name for name in (WEIGHTS, CONFIG)])}
    from prophrl_models.reward.prompts import prompts

    identity |= {"votes": settings.votes, "needed": settings.needed, "style": settings.style}
    asked = json.dumps({name: asdict(prompt) for name, prompt in prompts().items()}, sort_keys=True)
    identity["prompts"] = hashlib.sha256(asked.encode()).hexdigest()
    if settings.kind == "local":
        files = [f for f in Path(settings.place).glob("*") if f.suffix in (".safetensors", ".json", ".txt", ".jinja")]
        identity["sha256"] = _files_hash(sorted(files))
    return identity


def _files_hash(files: list[Path]) -> str:
    from prophrl_models.training.checkpoint import sha256

    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise JudgeError(f"a judge's folder lacks {missing[0] if missing else 'its files'}; copy all of them again")
    return hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode()).hexdigest()
