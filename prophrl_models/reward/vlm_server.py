"""A vision-language model behind a server that speaks the OpenAI chat-completions protocol (vLLM, SGLang, and others).

Every answer is one request; requests of many videos run at the same time. A server that is slow, busy or broken is
asked again with growing pauses, until the answer's deadline; then the answer is lost, which is no vote. Only what no
repetition can cure (a wrong key, an unknown model, a request that the server refuses) is an error.

The key comes from an environment variable and appears in no message.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from prophrl_models.reward.frames import data_url
from prophrl_models.reward.judge import JudgeError
from prophrl_models.reward.prompts import Question
from prophrl_models.reward.votes import Lost

LARGEST_REPLY_BYTES = 4_000_000
_REPEATABLE = {408, 409, 425, 429}
"""Statuses below 500 that say "later"."""


@dataclass(frozen=True)
class ServerOptions:
    """Where the server is and how it is asked.

    Attributes:
        url: base address up to and with the version, such as ``http://127.0.0.1:8000/v1``.
        model: the name under which the server knows the model.
        key_variable: environment variable with the key; an unset one sends none.
        temperature, top_p, max_tokens: sampling, as published.
        timeout_s: longest wait for one reply, from its request to its last byte.
        attempts: requests for one answer at most.
        pause_s: wait before the second attempt; it doubles with each, with some chance in it.
        deadline_s: when an answer is given up, all its attempts and pauses together.
        threads: requests at the same time.
        jpeg_quality: of the frames.
        extra: further fields of every request.
    """

    url: str
    model: str
    key_variable: str = "PROPHRL_VLM_API_KEY"
    temperature: float = 0.6
    top_p: float = 0.9
    max_tokens: int = 500
    timeout_s: float = 60.0
    attempts: int = 4
    pause_s: float = 1.0
    deadline_s: float = 180.0
    threads: int = 16
    jpeg_quality: int = 90
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise JudgeError(
                f"the server's address must read like http://host:8000/v1 or https://host/v1, got {self.url!r}"
            )
        if min(self.timeout_s, self.deadline_s) <= 0.0 or min(self.attempts, self.threads, self.max_tokens) < 1:
            raise JudgeError(f"time-outs must be positive, and attempts, threads and max_tokens at least 1; got {self}")


class _Busy(Exception):
    """A request that may be repeated; ``after_s`` is when the server wants it."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class _Outage:
    """Given-up answers in a row, over all threads: with enough of them the rest need not wait for their own."""

    def __init__(self, enough: int) -> None:
        self._enough, self._in_a_row, self._lock = enough, 0, threading.Lock()

    def report(self, *, answered: bool) -> None:
        with self._lock:
            self._in_a_row = 0 if answered else self._in_a_row + 1

    def stop(self) -> None:
        with self._lock:
            self._in_a_row = self._enough

    @property
    def is_total(self) -> bool:
        return self._in_a_row >= self._enough


class ServerAnswerer:
    """Answers of a served model; see ``votes.Answerer``."""

    def __init__(self, options: ServerOptions, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.name, self.options, self._sleep = f"{options.model} at {urlsplit(options.url).hostname}", options, sleep

    def answers(self, questions: Sequence[Question], counts: Sequence[int], attempt: int) -> list[list[str | Lost]]:
        """See ``votes.Answerer.answers``; each frame is compressed once for all answers."""
        outage = _Outage(2 * self.options.threads)
        with ThreadPoolExecutor(self.options.threads) as pool:
            waiting = []
            for asked, count in zip(questions, counts, strict=True):
                body = self._body(asked)
                waiting.append([pool.submit(self._answer, body, outage) for _ in range(count)])
            try:
                return [[future.result() for future in futures] for futures in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _body(self, asked: Question) -> bytes:
        content: list[dict[str, Any]] = [{"type": "text", "text": asked.text}]
        for tag, frame in zip(asked.tags, asked.frames, strict=True):
            content.append({"type": "text", "text": tag})
            content.append({"type": "image_url", "image_url": {"url": data_url(frame, self.options.jpeg_quality)}})
        o = self.options
        sampling = {"temperature": o.temperature, "top_p": o.top_p, "max_tokens": o.max_tokens}
        request = {"model": o.model, "messages": [{"role": "user", "content": content}], **sampling, **o.extra}
        return json.dumps(request).encode()

    def _answer(self, body: bytes, outage: _Outage) -> str | Lost:
        o, started = self.options, time.monotonic()
        reason = "no time was left for a request"
        for attempt in range(o.attempts):
            left = o.deadline_s - (time.monotonic() - started)
            if outage.is_total:
                return Lost("the server has answered nothing for a long time")
            if left <= 0.0:
                break
            try:
                text = self._request(body, min(o.timeout_s, left))
                outage.report(answered=True)
                return text
            except _Busy as busy:
                reason, wanted = str(busy), busy.after_s
            except JudgeError:
                outage.stop()
                raise
            pause = max(o.pause_s * 2.0**attempt * random.uniform(0.75, 1.25), wanted)
            if attempt + 1 == o.attempts or time.monotonic() - started + pause >= o.deadline_s:
                break
            self._sleep(pause)
        outage.report(answered=False)
        return Lost(reason)

    def _request(self, body: bytes, timeout_s: float) -> str:
        parts, ends = urlsplit(self.options.url), time.monotonic() + timeout_s
        secure = parts.scheme == "https"
        connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = connect(parts.hostname or "", parts.port, timeout=timeout_s)
        try:
            connection.request("POST", f"{parts.path.rstrip('/')}/chat/completions", body, self._headers())
            line = connection.sock  # the connection forgets it when the server announces to close
            reply = connection.getresponse()
            data = _read(reply, line, ends)
        except TimeoutError as error:
            raise _Busy(f"no complete reply within {timeout_s:.3g} s") from error
        except ssl.SSLCertVerificationError as error:
            raise JudgeError(f"the certificate of {parts.hostname} is not valid: {error.verify_message}") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Busy(f"the connection failed: {type(error).__name__}") from error
        finally:
            connection.close()
        self._check(reply.status, reply.getheader("Retry-After"), data)
        return _content(data)

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.options.key_variable, "").strip()
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def _check(self, status: int, retry_after: str | None, data: bytes) -> None:
        if status == 200:
            return
        if status >= 500 or status in _REPEATABLE:
            after = float(retry_after) if retry_after and retry_after.isdigit() else 0.0
            raise _Busy(f"the server answered {status}", after)
        hint = {
            401: f"set the environment variable {self.options.key_variable} to its key",
            403: f"its key ({self.options.key_variable}) may not use this model",
            404: f"it does not know {self.options.model!r}, or the address should end in /v1",
            413: "it takes smaller requests; use a prompt with fewer or smaller frames",
        }.get(status, "see its log")
        said = " ".join(data[:300].decode("utf-8", "replace").split())
        raise JudgeError(f"the server at {self.options.url} answered {status} ({hint}): {said}")


def _read(reply: http.client.HTTPResponse, line: socket.socket, ends: float) -> bytes:
    """The whole body. The socket's time-out covers one read only, so a server that drips bytes needs a clock."""
    parts: list[bytes] = []
    size = 0
    while True:
        left = ends - time.monotonic()
        if left <= 0.0:
            raise TimeoutError
        line.settimeout(left)
        part = reply.read1(65536)
        if not part:
            if reply.length:
                raise http.client.IncompleteRead(b"".join(parts), reply.length)
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > LARGEST_REPLY_BYTES:
            raise http.client.HTTPException(f"more than {LARGEST_REPLY_BYTES} bytes")


def _content(data: bytes) -> str:
    """The text of the first choice; empty for a reply that holds a refusal instead.

    Raises:
        _Busy: not a reply of this protocol; the next one may be.
    """
    try:
        message = json.loads(data)["choices"][0]["message"]
        content = message.get("content")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _Busy("the reply is not one of the chat protocol") from error
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
