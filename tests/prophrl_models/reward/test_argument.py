"""Judges given as one argument: what the words become, and which are refused."""

from __future__ import annotations

import re

import pytest

from prophrl_models.reward.argument import parse_judge
from prophrl_models.reward.factory import JudgeSettings
from prophrl_models.reward.judge import JudgeError


def test_judges_are_named_by_kind_and_place() -> None:
    server = parse_judge("server:http://127.0.0.1:8000/v1,some/model")
    assert (server.kind, server.place, server.model) == ("server", "http://127.0.0.1:8000/v1", "some/model")
    assert server == JudgeSettings("server", "http://127.0.0.1:8000/v1", "some/model")
    assert parse_judge("classifier:runs/a,b") == JudgeSettings("classifier", "runs/a,b")
    with pytest.raises(JudgeError, match="got 'oracle:x'"):
        parse_judge("oracle:x")


def test_options_of_a_judge_follow_its_place() -> None:
    place = "http://127.0.0.1:8000/v1"
    assert parse_judge(f"server:{place},some/model,style=libero,votes=7,deadline_s=20,timeout_s=2.5") == JudgeSettings(
        "server", place, "some/model", votes=7, needed=4, style="libero", timeout_s=2.5, deadline_s=20.0
    )
    local = parse_judge("local:weights/qwen, votes=3, needed=3, device=cpu")
    assert local == JudgeSettings("local", "weights/qwen", votes=3, needed=3, device="cpu")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server:http://h/v1,m,speed=3", "no option 'speed'; choose of style, votes, needed, timeout_s, deadline_s"),
        ("classifier:runs/judge,votes=3", "classifier has no option 'votes'; choose of device"),
        ("local:weights,votes=many", "votes is a whole number, got 'many'"),
        ("server:http://h/v1,m,timeout_s=soon", "timeout_s is a number, got 'soon'"),
        ("server:http://h/v1,m,timeout_s=0", "time-outs must be positive numbers, got 0.0"),
        ("local:weights,votes=3,needed=4", "of 3 votes between 1 and 3 are needed"),
        ("local:weights,style=opera", "no prompt file 'opera'; choose one of bridge, "),
        ("local:weights,votes=3,votes=5", "votes is given twice"),
        ("server:http://h/v1,votes=3", "needs a model: server:ADDRESS,MODEL"),
        ("local:,votes=3", "needs its folder: local:FOLDER"),
    ],
)
def test_judges_that_cannot_be_are_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(JudgeError, match=re.escape(said)):
        parse_judge(text)
