"""Prompt files: each says what the principles ask for, and its ending is one that the parser reads."""

from __future__ import annotations

import re

import numpy as np
import pytest

from prophrl_models.reward.judge import JudgeError
from prophrl_models.reward.parse import parse_answer
from prophrl_models.reward.prompts import JudgePrompt, parse_prompt, prompt_for, prompts, question

ALL = list(prompts().values())
TASKS = {
    "grasp_bottle": "grasp the bottle and lift it",
    "place_cube": "put the red cube into the bowl",
    "pull_tissue": "pull a tissue out of the box",
    "place_bowl": "put the bowl onto the plate",
}


@pytest.mark.parametrize("prompt", ALL, ids=lambda prompt: prompt.name)
def test_a_prompt_states_conditions_latitude_its_end_and_motionless_failure(prompt: JudgePrompt) -> None:
    text = " ".join(prompt.text.split())
    assert "Do not be generous" in text
    assert re.search(r"failure.*(nothing moves|never moves|nothing has moved)", text)
    assert re.search(r"touch", text)
    assert re.search(r"tag", text), "frames are found by their tags"
    if prompt.style == "box":
        assert r"\box{Success} or \box{Failure}" in text
    else:
        assert '"success"' in text and '"finish_step"' in text


@pytest.mark.parametrize("prompt", ALL, ids=lambda prompt: prompt.name)
def test_an_answer_that_repeats_the_prompt_is_no_vote(prompt: JudgePrompt) -> None:
    assert parse_answer(prompt.text, prompt.style).success is None


@pytest.mark.parametrize(("name", "instruction"), TASKS.items())
def test_the_four_tasks_are_found_by_name_and_by_instruction(name: str, instruction: str) -> None:
    assert prompt_for(name).name == prompt_for(instruction.upper(), "bridge").name == name


def test_a_style_never_answers_for_a_task_by_chance() -> None:
    with pytest.raises(JudgeError, match="no prompt for the task 'bridge'"):
        prompt_for("bridge")
    assert prompt_for("put the spoon on the towel", "bridge").name == "bridge"


def test_a_damaged_prompt_file_is_refused_by_name() -> None:
    good = "tasks: []\nstyle: box\nframes: 8\nlongest_side: 64\ntext: look\n"
    assert parse_prompt("mine", good).frames == 8
    for wrong in (good.replace("box", "haiku"), good.replace("8", "1"), good + "extra: 1\n", "- 1", "a: [", "text: x"):
        with pytest.raises(JudgeError, match="prompt mine"):
            parse_prompt("mine", wrong)


def test_large_frames_are_scaled_down_and_small_ones_left_alone() -> None:
    large, small = np.zeros((3, 480, 640, 3), np.uint8), np.zeros((3, 96, 128, 3), np.uint8)
    prompt = prompt_for("place_cube")

    assert question(prompt, large, "x").frames[0].shape == (240, 320, 3)
    assert question(prompt, small, "x").frames[0].shape == (96, 128, 3)


def test_a_question_has_a_number_of_its_own() -> None:
    prompt, video = prompt_for("place_cube"), np.zeros((3, 8, 8, 3), np.uint8)
    other = video.copy()
    other[1, 2, 3] = 1

    keys = {question(prompt, v, t).key for v in (video, other) for t in ("a", "b")}
    assert len(keys) == 4
    assert question(prompt, video.copy(), "a").key in keys
