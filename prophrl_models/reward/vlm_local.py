"""A vision-language model in this process: Qwen2.5-VL or Qwen3-VL from a folder, through transformers.

Frames are given as images, each after its tag, in the models' own chat layout and without a system prompt. All votes
on a video come from one pass over its frames. The inputs are put together here from the folder's tokenizer and image
settings, because the complete processor of these models needs torchvision for videos, which are not used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prophrl_models.reward.judge import JudgeError
from prophrl_models.reward.prompts import Question
from prophrl_models.reward.votes import Lost

CLASSES = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
"""``model_type`` in config.json to the class in transformers."""
_IMAGE = "<|image_pad|>"
_SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", _IMAGE)


class LocalAnswerer:
    """Answers of a model loaded here; see ``votes.Answerer``. They depend on question, attempt and seed only.

    Args:
        folder: config.json, safetensors weights, tokenizer and preprocessor_config.json, as published. Nothing is
            fetched from a network and no code from the folder is run.
        device: "cuda" where there is a GPU and None.
        dtype: bfloat16 on a GPU and float32 on a CPU where None.
        together: answers generated at a time for one question; the rest follow in further passes.

    Raises:
        JudgeError: no such folder, another kind of model, or files that do not belong together.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        temperature: float = 0.6,
        top_p: float = 0.9,
        max_tokens: int = 500,
        together: int = 5,
        seed: int = 0,
    ) -> None:
        folder = Path(folder)
        self.name = folder.name
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        self._sampling = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_tokens}
        self._together, self._seed = max(1, together), seed
        self._model, self._tokenizer, self._images = _load(folder, self.dtype, self.device)
        self._image_id = int(self._model.config.image_token_id)
        unknown = [t for t in _SPECIAL if len(self._tokenizer.encode(t, add_special_tokens=False)) != 1]
        if unknown or self._tokenizer.convert_tokens_to_ids(_IMAGE) != self._image_id:
            raise JudgeError(
                f"the tokenizer in {folder} does not belong to its model: {', '.join(unknown) or _IMAGE} must be one "
                f"token, and images token {self._image_id}; copy all files of one model"
            )

    def answers(self, questions: Sequence[Question], counts: Sequence[int], attempt: int) -> list[list[str | Lost]]:
        """See ``votes.Answerer.answers``; nothing is ever lost here."""
        return [list(self._answer(q, n, attempt)) for q, n in zip(questions, counts, strict=True)]

    def _answer(self, asked: Question, count: int, attempt: int) -> list[str]:
        inputs = self.inputs(asked)
        length = inputs["input_ids"].shape[1]
        found: list[str] = []
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed((asked.key + 7_919 * attempt + self._seed) % 2**63)
            while len(found) < count:
                now = min(self._together, count - len(found))
                ids = self._model.generate(
                    **inputs,
                    **self._sampling,
                    do_sample=True,
                    num_return_sequences=now,
                    eos_token_id=self._tokenizer.convert_tokens_to_ids("<|im_end|>"),
                    pad_token_id=self._tokenizer.convert_tokens_to_ids("<|im_end|>"),
                )
                found += self._tokenizer.batch_decode(ids[:, length:], skip_special_tokens=True)
        return found

    def inputs(self, asked: Question) -> dict[str, Tensor]:
        """What the model takes for one question: ids [1, S], which of them are image places, and image patches."""
        pixels = self._images(images=list(asked.frames), return_tensors="pt")
        places = pixels["image_grid_thw"].prod(dim=1) // self._images.merge_size**2
        shown = "".join(
            f"{tag}\n<|vision_start|>{_IMAGE * int(count)}<|vision_end|>\n"
            for tag, count in zip(asked.tags, places, strict=True)
        )
        text = f"<|im_start|>user\n{_harmless(asked.text)}\n{shown}<|im_end|>\n<|im_start|>assistant\n"
        ids = torch.tensor([self._tokenizer.encode(text, add_special_tokens=False)], dtype=torch.long)
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self._image_id).long(),
            "pixel_values": pixels["pixel_values"].to(self.dtype),
            "image_grid_thw": pixels["image_grid_thw"],
        }
        return {name: value.to(self.device) for name, value in inputs.items()}


def _harmless(text: str) -> str:
    """Text in which no special token of the chat layout is left; an instruction must not end the user's turn."""
    for token in _SPECIAL:
        text = text.replace(token, token.strip("<|>"))
    return text


def _load(folder: Path, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any, Any]:
    import transformers
    from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

    config = folder / "config.json"
    if not config.is_file():
        raise JudgeError(f"no {config}; a local judge is the folder of a published Qwen2.5-VL or Qwen3-VL model")
    try:
        kind = json.loads(config.read_text()).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise JudgeError(f"{config} is not a model's configuration: {error}") from error
    if kind not in CLASSES:
        raise JudgeError(
            f"{folder} holds a model of type {kind!r}; judges are {', '.join(CLASSES)}. Serve others and use a server"
        )
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise JudgeError(f"{folder} has no {name}; copy all files of the published model")
    try:
        model = getattr(transformers, CLASSES[kind]).from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        images = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise JudgeError(f"{folder} cannot be loaded as {CLASSES[kind]}: {error}") from error
    return model.to(device).eval(), tokenizer, images
