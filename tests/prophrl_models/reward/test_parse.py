"""An answer counts as what it says, in whatever form; what says neither of the two things is no vote."""

from __future__ import annotations

import pytest

from prophrl_models.reward.parse import parse_answer

YES = [
    r"Frames 0-9: approach. Frames 10-20: lift. \box{Success}",
    r"\boxed{success}.",
    r"\boxed{\text{Success}}",
    r"$\boxed{Success}$",
    "box{ SUCCESS }",
    "The cube is inside.\n\n**Success**",
    "Reasoning ...\nFinal answer: Success.",
    "The verdict is: success",
    "The cube is in the bowl. So the attempt is a success.",
    '```json\n{"success": true, "finish_step": 12}\n```',
    "{'success': True, 'finish_step': 12}",
    '{"success": "yes"}',
    r"It looked like \box{Failure} at first, but the last frames show it: \box{Success}",
    "<think>maybe \\box{Failure}</think>\\box{Success}",
]
NO = [
    r"Nothing moves. \box{Failure}",
    r"\boxed{failed}",
    "failure",
    "Label - Failure",
    '{"success": false, "finish_step": -1}',
    '{"success": 0}',
    r"\box{Success} would need the cube in the bowl, so \box{Failure}",
    "success: no",
]
NEITHER = [
    "",
    "   \n ",
    "I'm sorry, I can't help with judging this video.",
    "I cannot tell whether this was a success",
    "The attempt was not a success",
    "Is it a success?",
    r"End with \box{Success} or \box{Failure}",
    r"\box{Success}/\box{Failure}",
    r"\box{Unclear}",
    "<think>the cube ... \\box{Success}",
    '{"finish_step": 4}',
    "asdf {{{ 123 }",
    "The gripper moves towards the cu",
    "{" * 5000,
]


@pytest.mark.parametrize("text", YES)
@pytest.mark.parametrize("style", ["box", "json"])
def test_a_yes_is_a_yes_in_any_form(text: str, style: str) -> None:
    assert parse_answer(text, style).success is True


@pytest.mark.parametrize("text", NO)
@pytest.mark.parametrize("style", ["box", "json"])
def test_a_no_is_a_no_in_any_form(text: str, style: str) -> None:
    assert parse_answer(text, style).success is False


@pytest.mark.parametrize("text", NEITHER)
@pytest.mark.parametrize("style", ["box", "json"])
def test_refusals_garbage_and_cut_off_answers_are_no_vote(text: str, style: str) -> None:
    assert parse_answer(text, style).success is None


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ('{"success": true, "finish_step": 42}', 42),
        ('{"success": true, "finish_step": "frame_step30"}', 30),
        ("{success: true, finish_step: 7,}", 7),
        ('{"success": false, "finish_step": -1}', -1),
        ('{"success": true, "finish_step": null}', None),
        ('first {"success": true, "finish_step": 3}, corrected {"success": true, "finish_step": 9}', 9),
    ],
)
def test_the_finish_step_is_read_from_json_and_from_what_resembles_it(text: str, step: int | None) -> None:
    assert parse_answer(text, "json").finish_step == step


def test_the_form_that_was_asked_for_goes_first() -> None:
    text = r'{"success": false} and yet \box{Success}'

    assert parse_answer(text, "box").success is True
    assert parse_answer(text, "json").success is False
