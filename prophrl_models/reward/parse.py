r"""Reads a judge's answer: ``\box{Success}``, JSON with ``success`` and ``finish_step``, or a bare last word.

Tolerant of form, strict about meaning: an answer that does not say one of the two things is no vote. A refusal that
happens to contain the word "success" must not become one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_LABEL = r"success(?:ful(?:ly)?)?|succeeded|failure|failed|fail"
_BOX = re.compile(
    r"\\*\bbox(?:ed)?\s*\{\s*(?:\\+(?:text|mathrm|textbf|mathbf)\s*\{\s*)?[*_\"' ]*(" + _LABEL + r")[*_\"' .]*\}",
    re.IGNORECASE,
)
_BOTH_BOXES = re.compile(_BOX.pattern + r"\}?\s*(?:/|\||,?\s*or\b)\s*" + _BOX.pattern, re.IGNORECASE)
"""An answer that repeats the choices it was given has chosen nothing."""
_BARE = re.compile(
    r"(?:(?:the\s+)?(?:final\s+|overall\s+)?(?:answer|verdict|label|result|judge?ment|conclusion|decision|outcome)"
    r"\s*(?:is|was)?\s*[:=\-]?\s*)?(?:a\s+)?(" + _LABEL + r")",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\b(" + _LABEL + r")$", re.IGNORECASE)
_HEDGE = re.compile(
    r"\b(?:not|no|nor|never|neither|cannot|unable|unclear|uncertain|whether|if|or|without|would|could|should|may|might|"
    r"n't|hard|impossible|difficult|sorry|partial(?:ly)?)\b|n['’]t\b|\?",
    re.IGNORECASE,
)
_FIELD = re.compile(
    r"[\"']?\bsuccess[\"']?\s*[:=]\s*[\"']?(true|false|yes|no|1|0)\b(?!\s*(?:or\b|/|\|))", re.IGNORECASE
)
_STEP = re.compile(r"[\"']?\bfinish_step[\"']?\s*[:=]\s*[\"']?(?:frame_?step_?)?(-?\d+)", re.IGNORECASE)
_YES = {"true", "yes", "1", "success", "succeeded", "successful", "successfully"}
_NO = {"false", "no", "0", "failure", "failed", "fail"}


@dataclass(frozen=True)
class Answer:
    """What an answer says.

    Attributes:
        success: None when it says neither.
        finish_step: the frame that it names as the first one in which the task was done; negative for "none".
    """

    success: bool | None
    finish_step: int | None = None


def parse_answer(text: str, style: str = "box") -> Answer:
    """Read an answer.

    Args:
        text: what the judge wrote, reasoning and all.
        style: "box" or "json", what it was asked for; the other forms are tried after it.
    """
    text = _BOTH_BOXES.sub(" ", _without_thoughts(text))
    readers = (_json, _boxed, _bare) if style == "json" else (_boxed, _json, _bare)
    for read in readers:
        answer = read(text)
        if answer.success is not None:
            return answer
    return Answer(None)


def _without_thoughts(text: str) -> str:
    """What follows the thoughts of a model that marks them; nothing if it never stopped thinking."""
    before, mark, after = text.rpartition("</think>")
    return after if mark else ("" if text.lstrip().startswith("<think>") else before + after)


def _boxed(text: str) -> Answer:
    labels = _BOX.findall(text)
    return Answer(_meaning(labels[-1])) if labels else Answer(None)


def _bare(text: str) -> Answer:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return Answer(None)
    last = lines[-1].strip("*_#`\"'.!:()[]{}<>$\\ ")
    whole = _BARE.fullmatch(last)
    if whole:
        return Answer(_meaning(whole[1]))
    sentence = re.split(r"(?<=[.!;])\s+", last)[-1].strip("*_`\"'.! ")
    ending = _SENTENCE_END.search(sentence)
    return Answer(_meaning(ending[1])) if ending and not _HEDGE.search(sentence) else Answer(None)


def _json(text: str) -> Answer:
    for value in reversed(list(_objects(text))):
        success = _meaning(value.get("success"))
        if success is not None:
            return Answer(success, _step(value.get("finish_step")))
    fields, steps = _FIELD.findall(text), _STEP.findall(text)
    if not fields:
        return Answer(None)
    return Answer(_meaning(fields[-1]), int(steps[-1]) if steps else None)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object that begins somewhere in the text and is complete."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (json.JSONDecodeError, RecursionError):
            continue  # a brace of something else; a later one may begin the answer
        if isinstance(value, dict):
            yield value


def _meaning(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    return True if word in _YES else False if word in _NO else None


def _step(value: Any) -> int | None:
    found = re.search(r"-?\d+", str(value)) if value is not None and not isinstance(value, bool) else None
    return int(found[0]) if found else None
