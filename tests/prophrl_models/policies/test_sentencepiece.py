"""SentencePiece models become the same tokeniser as a tokenizer.json."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers.utils import sentencepiece_model_pb2_new as schema

from prophrl_models.policies.pi05_prompt import Prompts, read_tokenizer
from prophrl_models.policies.sentencepiece import tokenizer_from_sentencepiece

WORDS = ("th", "the", "▁the", "Ta", "sk", "Task", "to", "tow", "el", "towel", "▁towel", "he", "ow", "owel")


def model(**settings: object) -> bytes:
    """A BPE model as SentencePiece writes it, with the message classes of the library's own schema."""
    proto = schema.ModelProto()
    kinds = schema.ModelProto.SentencePiece.Type

    def add(text: str, score: float, kind: int) -> None:
        proto.pieces.add(piece=text, score=score, type=kind)

    for text in ("<pad>", "<eos>", "<bos>"):
        add(text, 0.0, kinds.Value("CONTROL"))
    add("<unk>", 0.0, kinds.Value("UNKNOWN"))
    add("<loc0001>", 0.0, kinds.Value("USER_DEFINED"))
    for byte in range(256):
        add(f"<0x{byte:02X}>", 0.0, kinds.Value("BYTE"))
    letters = sorted({letter for word in WORDS for letter in word} | set("0123456789:"))
    for rank, text in enumerate([*WORDS, *letters]):
        add(text, -float(rank), kinds.Value("NORMAL"))
    proto.trainer_spec.model_type = schema.TrainerSpec.ModelType.Value("BPE")
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.unk_id = 3
    proto.normalizer_spec.add_dummy_prefix = False
    for name, value in settings.items():
        spec = proto.normalizer_spec if name == "add_dummy_prefix" else proto.trainer_spec
        setattr(spec, name, value)
    content: bytes = proto.SerializeToString()
    return content


def pieces(text: str) -> list[str]:
    tokenizer = Tokenizer.from_str(tokenizer_from_sentencepiece(model()).decode())
    return list(tokenizer.encode(text, add_special_tokens=False).tokens)


def test_neighbours_with_the_best_piece_join_first() -> None:
    # "th" joins before "he" can, "to" before "ow"; then the longer ones, with the space last.
    assert pieces("Task: the towel") == ["Task", ":", "▁the", "▁towel"]


def test_digits_stay_single_and_unknown_letters_become_bytes() -> None:
    assert pieces("128 é") == ["1", "2", "8", "▁", "<0xC3>", "<0xA9>"]


def test_user_defined_pieces_are_found_whole() -> None:
    assert pieces("the<loc0001>the") == ["the", "<loc0001>", "the"]


def test_ids_are_the_positions_of_the_pieces_and_text_comes_back() -> None:
    tokenizer = Tokenizer.from_str(tokenizer_from_sentencepiece(model()).decode())
    assert [tokenizer.token_to_id(t) for t in ("<pad>", "<eos>", "<bos>", "<unk>", "<0x00>")] == [0, 1, 2, 3, 5]
    text = "Task: fold the towel é 12"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_prompts_accept_a_model_file_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "paligemma_tokenizer.model").write_bytes(model())
    prompts = Prompts(read_tokenizer(tmp_path), 64, 400)
    row = prompts.encode(["the towel"], None)[0]
    assert row[0] == 2 and prompts.tokenizer.decode(row[1:][row[1:] >= 0].tolist()) == "the towel\n"


@pytest.mark.parametrize("settings", [{"model_type": 1}, {"byte_fallback": False}, {"add_dummy_prefix": True}])
def test_models_that_work_differently_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="only BPE models with byte fallback"):
        tokenizer_from_sentencepiece(model(**settings))


def test_damaged_files_are_refused() -> None:
    for content in (model()[:-7], b"\xff" * 20, b"not a model", b""):
        with pytest.raises(ValueError, match=r"SentencePiece model|only BPE"):
            tokenizer_from_sentencepiece(content)
