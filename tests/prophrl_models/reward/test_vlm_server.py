"""A judge behind a server that misbehaves in every way: nothing that it does turns into a failure of the policy."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from prophrl_models.reward.judge import JudgeError, Verdict
from prophrl_models.reward.vlm_server import ServerAnswerer, ServerOptions
from prophrl_models.reward.votes import VotingJudge
from tests.helpers.chat_server import Behaviour, Handler, StubServer, serving

YES, NO = r"The cube lies in the bowl. \box{Success}", r"Nothing moves. \box{Failure}"
TASK = "put the red cube into the bowl"
KEY = "sk-do-not-print-me"
Judging = Callable[..., VotingJudge]


def video(value: int = 90, frames: int = 8) -> np.ndarray:
    return np.full((frames, 24, 32, 3), value, dtype=np.uint8)


def judge_at(server: StubServer, **options: Any) -> VotingJudge:
    settings = {"timeout_s": 5.0, "pause_s": 0.001, "attempts": 3, "deadline_s": 20.0, **options}
    return VotingJudge(ServerAnswerer(ServerOptions(server.url, "qwen", **settings)))


def judged(host: str, behave: Behaviour, **options: Any) -> tuple[Verdict, StubServer, VotingJudge]:
    with serving(host, behave) as server:
        judge = judge_at(server, **options)
        return judge.judge([video()], [TASK])[0], server, judge


def test_the_request_holds_prompt_task_tags_frames_and_the_key(
    loopback_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROPHRL_VLM_API_KEY", KEY)
    verdict, server, _ = judged(loopback_host, lambda h, n, r: h.say(YES), extra={"seed": 3})
    path, headers, request = server.requests[0]
    (message,) = request["messages"]
    texts = [part["text"] for part in message["content"] if part["type"] == "text"]
    images = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]

    assert verdict.success is True and len(server.requests) == 5
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert (request["model"], request["temperature"], request["top_p"]) == ("qwen", 0.6, 0.9)
    assert (request["max_tokens"], request["seed"]) == (500, 3)
    assert message["role"] == "user", "no system prompt"
    assert texts[0].endswith(f"Task: {TASK}\n") and texts[1:] == [f"frame_step{i}" for i in range(8)]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(images[3].partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert len(images) == 8 and np.abs(picture.astype(int) - 90).max() <= 2


def test_without_a_key_none_is_sent(loopback_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROPHRL_VLM_API_KEY", raising=False)
    _, server, _ = judged(loopback_host, lambda h, n, r: h.say(NO))
    assert "Authorization" not in server.requests[0][1]


def test_votes_of_several_videos_do_not_get_mixed_up(loopback_host: str) -> None:
    def by_brightness(handler: Handler, number: int, request: dict[str, Any]) -> None:
        url = request["messages"][0]["content"][2]["image_url"]["url"]
        data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
        handler.say(YES if cv2.imdecode(data, cv2.IMREAD_COLOR).mean() > 100 else NO)

    with serving(loopback_host, by_brightness) as server:
        bright = [200, 10, 220, 30, 40, 250]
        verdicts = judge_at(server).judge([video(value) for value in bright], [TASK] * 6)
    assert [verdict.success for verdict in verdicts] == [value > 100 for value in bright]
    assert [verdict.score for verdict in verdicts] == [float(value > 100) for value in bright]


def test_errors_of_the_server_are_outlived(loopback_host: str) -> None:
    def moody(handler: Handler, number: int, request: dict[str, Any]) -> None:
        bad: list[Callable[[], None]] = [
            lambda: handler.raw(500, b"oops"),
            lambda: handler.raw(503, b"", Retry_After="0"),
            lambda: handler.raw(429, b"slow down"),
            lambda: handler.raw(200, b"<html>gateway</html>"),
            lambda: handler.raw(200, b'{"choices": []}'),
            lambda: handler.raw(200, b'{"choices": [{"mess', length=500),
            lambda: handler.connection.close(),
        ]
        handler.close_connection = True
        bad[number // 2 % len(bad)]() if number % 2 == 0 and number < 14 else handler.say(YES)

    verdict, server, judge = judged(loopback_host, moody, threads=1, timeout_s=0.5)
    assert verdict.success is True and verdict.votes == (True,) * 5
    assert judge.statistics.lost == 0 and len(server.requests) > 5


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (lambda h, n, r: h.raw(500, b"CUDA out of memory"), "500"),
        (lambda h, n, r: h.raw(200, b"\xff\xfe garbage"), "chat protocol"),
        (lambda h, n, r: h.server.stopping.wait(20), "no complete reply"),
        (lambda h, n, r: h.drip(0.02), "no complete reply"),
        (lambda h, n, r: h.raw(200, b" " * 5_000_000), "connection failed"),
    ],
    ids=["errors", "garbage", "silence", "drips", "flood"],
)
def test_a_broken_server_is_no_judgement(loopback_host: str, behave: Behaviour, reason: str) -> None:
    verdict, _, judge = judged(loopback_host, behave, timeout_s=0.2, attempts=2)

    assert verdict.success is None and verdict.votes == (None,) * 5 and verdict.score == 0.5
    assert judge.statistics.lost == 10 and reason in verdict.reason


def test_nobody_at_the_address_is_no_judgement(loopback_host: str) -> None:
    with serving(loopback_host, lambda h, n, r: None) as server:
        pass
    verdict = judge_at(server).judge([video()], [TASK])[0]
    assert verdict.success is None and "connection failed" in verdict.reason


def test_refusals_are_no_votes_and_the_rest_decides(loopback_host: str) -> None:
    def half(handler: Handler, number: int, request: dict[str, Any]) -> None:
        refusals = [lambda: handler.say("I'm sorry, I can't judge videos."), lambda: handler.say(None, refusal="no")]
        refusals[number // 2 % 2]() if number % 2 else handler.say(YES)

    verdict, _, judge = judged(loopback_host, half, threads=1)
    assert verdict.success is True and None not in verdict.votes[:3] and False not in verdict.votes
    assert judge.statistics.empty >= 2


def test_half_of_the_votes_lost_does_not_make_a_failure(loopback_host: str) -> None:
    def half(handler: Handler, number: int, request: dict[str, Any]) -> None:
        handler.say(YES) if number in (0, 3) else handler.raw(500, b"")

    verdict, _, _ = judged(loopback_host, half, attempts=1, threads=1)
    assert verdict.success is True and verdict.votes == (True, True, None, None, None)


def test_a_dead_server_is_not_asked_thousands_of_times(loopback_host: str) -> None:
    with serving(loopback_host, lambda h, n, r: h.raw(500, b"")) as server:
        judge = judge_at(server, attempts=2, threads=2)
        verdicts = judge.judge([video()] * 30, [TASK] * 30)
        assert all(verdict.success is None for verdict in verdicts)
        assert server.count <= 2 * 2 * (2 * 2 + 2), "2 rounds of 2 attempts until 4 answers in a row are lost"


@pytest.mark.parametrize(("status", "words"), [(401, "PROPHRL_VLM_API_KEY"), (404, "qwen"), (400, "see its log")])
def test_what_no_repetition_cures_is_an_error_that_hides_the_key(
    loopback_host: str, monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    monkeypatch.setenv("PROPHRL_VLM_API_KEY", KEY)
    with serving(loopback_host, lambda h, n, r: h.raw(status, b'{"error": "so it is"}')) as server:
        with pytest.raises(JudgeError, match=words) as raised:
            judge_at(server, threads=1).judge([video()], [TASK])
        assert "so it is" in str(raised.value) and KEY not in str(raised.value)
        assert server.count == 1


def test_pauses_grow_and_stop_at_the_deadline(loopback_host: str) -> None:
    pauses: list[float] = []
    with serving(loopback_host, lambda h, n, r: h.raw(503, b"")) as server:
        options = ServerOptions(server.url, "qwen", pause_s=1.0, attempts=10, deadline_s=12.0, threads=1)
        VotingJudge(ServerAnswerer(options, sleep=pauses.append)).judge([video()], [TASK])
    assert all(0.75 <= pause / 2.0 ** (n % 4) <= 1.25 for n, pause in enumerate(pauses[:4]))
    assert max(pauses) < 12.0


def test_a_pause_that_the_server_names_is_kept(loopback_host: str) -> None:
    pauses: list[float] = []

    def later(handler: Handler, number: int, request: dict[str, Any]) -> None:
        handler.raw(429, b"", Retry_After="7") if number == 0 else handler.say(NO)

    with serving(loopback_host, later) as server:
        options = ServerOptions(server.url, "qwen", pause_s=0.01, threads=1)
        verdict = VotingJudge(ServerAnswerer(options, sleep=pauses.append)).judge([video()], [TASK])[0]
    assert verdict.success is False and pauses == [7.0]


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "http://user:secret@host/v1"])
def test_addresses_that_cannot_be_used_are_refused(url: str) -> None:
    with pytest.raises(JudgeError, match="address"):
        ServerOptions(url, "qwen")
