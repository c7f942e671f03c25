"""Instructions to token ids with the published tokenizer.json, in the layout that Prismatic policies read.

A row is [first token, padding (-1) ..., rest of the prompt]: the picture goes behind the first token and the action
tokens behind the last, so both stand beside their neighbours at fixed places, whatever the prompt's length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from prophrl_models.policies.interface import UnknownInstruction

OPENVLA_PROMPT = "In: What action should the robot take to {task}?\nOut:"
"""OpenVLA and OpenVLA-OFT; also VLA-Adapter without its small language model."""

QWEN_PROMPT = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nWhat action should the robot take to {task}?<|im_end|>\n<|im_start|>assistant\n"
)
"""VLA-Adapter's published models (its scripts' ``use_minivlm``)."""


class PromptTokeniser:
    """Token ids of instructions.

    Args:
        tokenizer_json: contents of a ``tokenizer.json``.
        prompt: text around ``{task}``, which is the lower-case instruction.
        length: width of a row; static, so that compiled networks see one shape.
        vocabulary: rows of the language model's embedding table.
        first: token id that every prompt begins with (Llama's <s>), put in front if the tokenizer does not; None: none.
        suffix: token ids behind the prompt (Llama's empty word, which stands before the action tokens in training).

    Raises:
        ValueError: not a tokenizer.json, a prompt without ``{task}``, or more tokens than the embedding table has rows.
    """

    def __init__(
        self,
        tokenizer_json: bytes,
        prompt: str,
        length: int,
        vocabulary: int,
        first: int | None = None,
        suffix: Sequence[int] = (),
    ) -> None:
        if "{task}" not in prompt:
            raise ValueError(f"the prompt must contain {{task}}, got {prompt!r}")
        try:
            self.tokenizer = Tokenizer.from_buffer(tokenizer_json)
        except Exception as error:  # the library raises bare Exception for whatever it cannot parse
            raise ValueError(f"not a tokenizer.json: {error}; take the one beside the published weights") from error
        size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        if size > vocabulary:
            raise ValueError(f"the tokenizer knows {size} tokens, the language model {vocabulary}; they do not belong")
        self.json, self.prompt, self.length, self.first, self.suffix = tokenizer_json, prompt, length, first, suffix
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        self.unknown = self.tokenizer.token_to_id(unknown) if unknown else None
        self.known: dict[str, list[int]] = {}

    def __call__(self, instructions: Sequence[str], device: torch.device | None = None) -> Tensor:
        """Ids [B, length]; see the file's head.

        Raises:
            UnknownInstruction: an instruction is empty, too long, or has a word that the tokenizer does not know.
        """
        return torch.tensor([self.row(text) for text in instructions], dtype=torch.long, device=device)

    def row(self, instruction: str) -> list[int]:
        """Ids of one instruction, ``length`` of them; see ``__call__``."""
        if instruction not in self.known:
            self.known[instruction] = self._row(instruction)
        return self.known[instruction]

    def _row(self, instruction: str) -> list[int]:
        task = instruction.lower().strip()
        if not task:
            raise UnknownInstruction("the instruction is empty; say what the robot should do")
        text = self.prompt.format(task=task)
        encoding = self.tokenizer.encode(text)
        ids = list(encoding.ids)
        if self.unknown is not None and self.unknown in ids:
            begin, end = encoding.offsets[ids.index(self.unknown)]
            word = text[begin:end]
            raise UnknownInstruction(f"the tokenizer has no token for {word!r} in {instruction!r}; use other words")
        if self.first is not None and ids[0] != self.first:
            ids = [self.first, *ids]
        suffix = list(self.suffix)
        if ids[len(ids) - len(suffix) :] != suffix:
            ids = ids + suffix
        if len(ids) > self.length:
            raise UnknownInstruction(
                f"{instruction!r} makes a prompt of {len(ids)} tokens, this policy reads {self.length}; shorten the "
                "instruction, or build the policy with a larger prompt_length"
            )
        return [ids[0], *[-1] * (self.length - len(ids)), *ids[1:]]
