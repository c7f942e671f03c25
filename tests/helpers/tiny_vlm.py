"""Random vision-language models of the published kinds, small enough for a test, in folders like the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>")  # fmt: skip


def write_tokenizer(folder: Path) -> dict[str, int]:
    """A tokenizer of single bytes with the special tokens of Qwen; returns their ids."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return {token: tokenizer.token_to_id(token) for token in SPECIAL}


def write_vlm(folder: Path, kind: str = "qwen2_5_vl", seed: int = 0) -> Path:
    """A folder with a random model of that kind; about 100 thousand parameters."""
    import transformers
    from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

    folder.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(folder)
    text = {
        "vocab_size": 256 + len(SPECIAL), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 8192,
        "bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    if kind == "qwen2_5_vl":
        patch, extra, names = 14, {"fullatt_block_indexes": [1], "window_size": 56}, ("Qwen2_5_VL", "Qwen2_5_VL")
    else:
        patch, names = 16, ("Qwen3VL", "Qwen3VL")
        extra = {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        text["head_dim"], rope["mrope_interleaved"] = 16, True
    config = getattr(transformers, f"{names[0]}Config")(
        text_config={**text, "rope_parameters": rope},
        vision_config={**vision, **extra, "patch_size": patch},
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{names[1]}ForConditionalGeneration")(config)
    model.save_pretrained(folder)
    size = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    Qwen2VLImageProcessorPil(patch_size=patch, merge_size=2, temporal_patch_size=2, size=size).save_pretrained(folder)
    return folder
