"""What a vision-language judge is asked: a prompt file for each task and for each style of data set.

The prompt files are YAML in ``resources/``; the principles are those of the paper's authors (design specification
7.2): conditions stated one by one and read with some latitude, an end to that latitude, nothing moved is a failure,
contact must be visible, reasoning over numbered frames first and a strict label last.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from prophrl_models.reward.frames import fitted, sample_indices
from prophrl_models.reward.judge import JudgeError, Video

STYLES = ("box", "json")


@dataclass(frozen=True)
class JudgePrompt:
    """How one kind of video is judged.

    Attributes:
        name: of the file.
        tasks: names and instructions that this prompt is for; empty for a style that takes any instruction.
        style: "box" (reasoning, then a boxed label) or "json" (an object with ``success`` and ``finish_step``).
        frames: frames shown.
        longest_side: of a shown frame in pixels; larger ones are scaled down.
        text: what the judge reads before the task and the frames.
    """

    name: str
    tasks: tuple[str, ...]
    style: str
    frames: int
    longest_side: int
    text: str


@dataclass(frozen=True)
class Question:
    """One video as it is put to a judge.

    Attributes:
        text: prompt and task.
        index_F: which frames of the video are shown; ``tags`` name them after it.
        frames: the images, RGB uint8 [H, W, 3].
        style: see ``JudgePrompt``.
    """

    text: str
    index_F: NDArray[np.int64]
    frames: tuple[Video, ...]
    style: str

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(f"frame_step{index}" for index in self.index_F)

    @property
    def key(self) -> int:
        """A number that depends on what is asked and shown, and on nothing else; for seeds."""
        digest = hashlib.sha256(self.text.encode())
        for frame in self.frames:
            digest.update(np.ascontiguousarray(frame).data)
        return int.from_bytes(digest.digest()[:6], "big")


def question(prompt: JudgePrompt, video: Video, task: str) -> Question:
    """Ask about one video [T, H, W, 3]."""
    index_F = sample_indices(len(video), prompt.frames)
    frames = tuple(fitted(np.asarray(video[index]), prompt.longest_side) for index in index_F)
    return Question(f"{prompt.text.strip()}\n\nTask: {task.strip()}\n", index_F, frames, prompt.style)


@cache
def prompts() -> dict[str, JudgePrompt]:
    """All prompt files by name.

    Raises:
        JudgeError: a file lacks a field or has one that is unknown.
    """
    folder = files("prophrl_models.reward") / "resources"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    named = (parse_prompt(entry.name.removesuffix(".yaml"), entry.read_text(encoding="utf-8")) for entry in found)
    return {prompt.name: prompt for prompt in sorted(named, key=lambda prompt: prompt.name)}


def parse_prompt(name: str, content: str) -> JudgePrompt:
    """A prompt from the YAML of its file.

    Raises:
        JudgeError: names the field that is missing, unknown or wrong.
    """
    try:
        raw: Any = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise JudgeError(f"prompt {name} is not YAML: {error}") from error
    wanted = {field.name for field in fields(JudgePrompt)} - {"name"}
    if not isinstance(raw, dict) or set(raw) != wanted:
        raise JudgeError(f"prompt {name} must have exactly the fields {', '.join(sorted(wanted))}, got {raw!r:.200}")
    if raw["style"] not in STYLES:
        raise JudgeError(f"prompt {name}: style {raw['style']!r} is none of {', '.join(STYLES)}")
    for field in ("frames", "longest_side"):
        if type(raw[field]) is not int or raw[field] < 2:
            raise JudgeError(f"prompt {name}: {field} must be a whole number of at least 2, got {raw[field]!r}")
    if not isinstance(raw["tasks"], list) or not isinstance(raw["text"], str) or not raw["text"].strip():
        raise JudgeError(f"prompt {name}: tasks is a list and text is not empty")
    return JudgePrompt(**{**raw, "name": name, "tasks": tuple(map(str, raw["tasks"]))})


def prompt_for(task: str, fallback: str | None = None) -> JudgePrompt:
    """The prompt for a task's name or instruction; for one that no file names, the style called ``fallback``.

    Raises:
        JudgeError: no such prompt; lists what there is.
    """
    known = prompts()
    said = task.strip().lower()
    for prompt in known.values():
        if said in (name.lower() for name in (prompt.name, *prompt.tasks) if prompt.tasks):
            return prompt
    if fallback in known:
        return known[fallback]
    styles = [prompt.name for prompt in known.values() if not prompt.tasks]
    named = [prompt.name for prompt in known.values() if prompt.tasks]
    raise JudgeError(
        f"no prompt for the task {task!r} (there are {', '.join(named)}) and no style {fallback!r}; choose one of the "
        f"styles {', '.join(styles)}"
    )
