"""Prompts become rows of one width; what the policy cannot read is refused."""

from __future__ import annotations

import pytest

from prophrl_models.policies.interface import UnknownInstruction
from prophrl_models.policies.prismatic_prompt import OPENVLA_PROMPT, QWEN_PROMPT, PromptTokeniser
from tests.helpers.tiny_tokenizer import WORDS, tokenizer_json

LENGTH = 22


def ids(*words: str) -> list[int]:
    return [WORDS.index(word) for word in words]


def prompts(bos: bool = False, length: int = LENGTH, **changes: object) -> PromptTokeniser:
    return PromptTokeniser(tokenizer_json(bos), OPENVLA_PROMPT, length, 96, **changes)  # type: ignore[arg-type]


def test_a_row_is_the_first_token_padding_and_the_rest() -> None:
    words = "in : what action should the robot take to push the red cube ? out :"
    text = ids(*words.split())
    row = prompts()(["Push the RED cube"])[0].tolist()
    assert row == [text[0], *[-1] * (LENGTH - len(text)), *text[1:]]


@pytest.mark.parametrize("bos", [True, False])
def test_llama_rows_begin_with_the_start_token_once_and_end_with_the_empty_word_once(bos: bool) -> None:
    row = prompts(bos, first=1, suffix=(3,))(["open drawer"])[0].tolist()
    assert row[0] == 1 and row.count(1) == 1
    assert row[-3:] == [*ids("out", ":"), 3] and row.count(3) == 1


def test_rows_of_one_batch_have_one_width() -> None:
    assert prompts()(["push cube", "pick up the blue block", "push cube"]).shape == (3, LENGTH)


@pytest.mark.parametrize(
    ("instruction", "message"),
    [("", "empty"), ("   ", "empty"), ("push the aardvark", "'aardvark'"), ("push the " + "red " * 20, "prompt of")],
)
def test_unreadable_instructions_are_refused(instruction: str, message: str) -> None:
    with pytest.raises(UnknownInstruction, match=message):
        prompts()([instruction])


def test_braces_in_an_instruction_are_text() -> None:
    with pytest.raises(UnknownInstruction, match="no token"):
        prompts()(["push {task}"])


def test_a_file_that_is_no_tokenizer_and_one_that_is_too_large_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        PromptTokeniser(b"{}", OPENVLA_PROMPT, LENGTH, 96)
    with pytest.raises(ValueError, match="do not belong"):
        PromptTokeniser(tokenizer_json(), OPENVLA_PROMPT, LENGTH, 10)
    with pytest.raises(ValueError, match=r"must contain \{task\}"):
        PromptTokeniser(tokenizer_json(), "go", LENGTH, 96)


def test_published_prompts_ask_for_the_task_in_the_published_words() -> None:
    task = "put the bowl on the stove"
    assert OPENVLA_PROMPT.format(task=task) == f"In: What action should the robot take to {task}?\nOut:"
    assert f"<|im_start|>user\nWhat action should the robot take to {task}?<|im_end|>\n" in QWEN_PROMPT.format(
        task=task
    )
    assert QWEN_PROMPT.endswith("<|im_start|>assistant\n")
