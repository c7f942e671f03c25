"""Makes a judge from a few settings: the classifier, a model in this process, or a model behind a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prophrl_models.reward.judge import Judge, JudgeError

KINDS = ("classifier", "local", "server")


@dataclass(frozen=True)
class JudgeSettings:
    """Which judge.

    Attributes:
        kind: "classifier", "local" or "server".
        place: the classifier's or the model's folder, or the server's address.
        model: name of the model at a server.
        votes, needed: of a vision-language model, see ``votes.VoteRule``.
        style: prompt file for tasks that have none of their own, see ``prompts``.
        device: "cpu", "cuda" or empty for the judge's own choice.
    """

    kind: str = "classifier"
    place: str = ""
    model: str = ""
    votes: int = 5
    needed: int = 3
    style: str = "bridge"
    device: str = ""


def open_judge(settings: JudgeSettings, **options: Any) -> Judge:
    """Load the judge; ``options`` go to ``LocalAnswerer`` or ``ServerOptions`` (time-outs, threads, sampling).

    Raises:
        JudgeError: an unknown kind, or the judge cannot be loaded.
    """
    if settings.kind not in KINDS:
        raise JudgeError(f"unknown kind of judge {settings.kind!r}; choose one of {', '.join(KINDS)}")
    if not settings.place:
        raise JudgeError(f"a judge of kind {settings.kind!r} needs its place: a folder, or the address of a server")
    if settings.kind == "classifier":
        from prophrl_models.reward.classifier_judge import load_classifier

        return load_classifier(settings.place, settings.device or "cpu")
    from prophrl_models.reward.votes import Answerer, VoteRule, VotingJudge

    answerer: Answerer
    if settings.kind == "local":
        from prophrl_models.reward.vlm_local import LocalAnswerer

        answerer = LocalAnswerer(settings.place, device=settings.device or None, **options)
    else:
        from prophrl_models.reward.vlm_server import ServerAnswerer, ServerOptions

        if not settings.model:
            raise JudgeError(f"the server at {settings.place} needs the name of a model; its /models lists them")
        answerer = ServerAnswerer(ServerOptions(settings.place, settings.model, **options))
    return VotingJudge(answerer, VoteRule(settings.votes, settings.needed), style=settings.style)
