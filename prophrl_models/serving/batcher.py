"""One thread that owns the engine: gathers the questions of several robots and answers them together."""

from __future__ import annotations

import logging
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from prophrl_models.serving.engine import PolicyAnswer, PolicyEngine, PolicyRequest
from prophrl_models.serving.latency import LatencyMeter

log = logging.getLogger(__name__)


@dataclass
class _Question:
    request: PolicyRequest
    future: Future[PolicyAnswer] = field(default_factory=Future)
    asked_s: float = field(default_factory=time.perf_counter)


class Batcher:
    """Takes requests from any thread; answers are futures.

    A request waits for others at most ``window_s``, and not at all while nobody else is connected. A future that is
    cancelled before its turn costs nothing. A batch that fails is tried again one by one, so that a bad request fails
    alone.

    Args:
        engine: not to be used by anybody else from now on.
        window_s: longest wait for company.
    """

    def __init__(self, engine: PolicyEngine, window_s: float = 0.003) -> None:
        self._engine, self._window_s = engine, window_s
        self.clients = 0
        """Robots that may ask; set by who accepts them."""
        self.answered = 0
        self.failed = 0
        self.latency = LatencyMeter()
        """From a question's arrival to its answer."""
        self._questions: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="policy", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False when the thread has ended; nothing is answered any more then."""
        return self._thread.is_alive()

    def ask(self, request: PolicyRequest) -> Future[PolicyAnswer]:
        """The answer, later. Its exception is the engine's."""
        question = _Question(request)
        self._questions.put(question)
        return question.future

    def close(self, timeout_s: float = 10.0) -> None:
        """Answer what was asked and end the thread."""
        self._questions.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (batch := self._gather()) is not None:
            batch = [question for question in batch if question.future.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)

    def _gather(self) -> list[_Question] | None:
        """The next questions, None at the end."""
        first = self._questions.get()
        if first is None:
            return None
        batch, until_s = [first], time.perf_counter() + (self._window_s if self.clients > 1 else 0.0)
        while len(batch) < min(self._engine.max_batch, max(self.clients, 1)):
            try:
                question = self._questions.get(timeout=max(until_s - time.perf_counter(), 0.0))
            except queue.Empty:
                break
            if question is None:
                self._questions.put(None)  # the end, after this batch
                break
            batch.append(question)
        return batch

    def _answer(self, batch: list[_Question]) -> None:
        began_s = time.perf_counter()
        try:
            answers = self._engine.answer([question.request for question in batch])
        except Exception as error:
            if len(batch) > 1:
                log.warning("a batch of %d failed (%s); trying one by one", len(batch), error)
                for question in batch:
                    self._answer([question])
                return
            if not isinstance(error, ValueError):
                log.exception("the policy failed on a request")
            self.failed += 1
            batch[0].future.set_exception(error)
            return
        for question, answer in zip(batch, answers, strict=True):
            answer.timing["queue_ms"] = 1e3 * (began_s - question.asked_s)
            self.answered += 1
            self.latency.add(time.perf_counter() - question.asked_s)
            question.future.set_result(answer)
