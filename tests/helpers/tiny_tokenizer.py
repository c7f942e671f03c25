"""A word-level tokenizer of a few dozen words, in the tokenizer.json format of the published ones."""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

TEXT = (
    "<unk> <s> </s> <empty> in : what action should the robot take to ? out pick up cube push slide stack red "
    "block onto blue bowl drawer open close place"
)
WORDS = TEXT.split()


def tokenizer_json(bos: bool = False) -> bytes:
    """Contents of a tokenizer.json; ``bos``: every text begins with <s> (id 1), as Llama's does."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    content: str = tokenizer.to_str()
    return content.encode()
