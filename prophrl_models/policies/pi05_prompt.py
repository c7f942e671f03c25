"""pi0.5's prompt: the task and the discretised state as text, and the tokeniser that turns it into ids.

    Task: put the red cube into the bowl, State: 12 130 255 0 127 128 254;
    Action:

Format and bins as in openpi (models/tokenizer.py), except that states below -1 become bin 0, not -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from prophrl_models.policies.interface import UnknownInstruction
from prophrl_models.policies.sentencepiece import tokenizer_from_sentencepiece

BINS = 256
TOKENIZER = "tokenizer.json"
SENTENCEPIECE = ("tokenizer.model", "paligemma_tokenizer.model")
BEGIN = "<bos>"


def state_bins(state_BS: Tensor) -> Tensor:
    """Normalised states as integers 0 ... 255: equal bins over [-1, 1), a bin's lower edge belongs to it.

    Values outside are clipped to the first and last bin.

    Raises:
        ValueError: a state is not finite.
    """
    if not torch.isfinite(state_BS).all():
        bad = (~torch.isfinite(state_BS)).any(-1).nonzero().flatten().tolist()
        raise ValueError(f"states of rows {bad} hold NaN or infinity; repair or drop those observations")
    edges = torch.linspace(-1.0, 1.0, BINS + 1, dtype=torch.float64, device=state_BS.device)[:-1]
    return (torch.bucketize(state_BS.double(), edges, right=True) - 1).clamp(0, BINS - 1)


def clean(instruction: str) -> str:
    """One line without underscores, as the published model was trained."""
    return instruction.strip().replace("_", " ").replace("\n", " ")


class Prompts:
    """Instructions and states to token ids.

    Args:
        content: a ``tokenizer.json`` of the Hugging Face tokenizers library.
        length: ids in a row.
        vocabulary: size of the embedding that the ids index.

    Raises:
        ValueError: not such a file, no begin-of-sentence token, or more tokens than the embedding has.
    """

    def __init__(self, content: bytes, length: int, vocabulary: int) -> None:
        self.content = content
        self.length = length
        try:
            self.tokenizer = Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises bare Exception for whatever it cannot read
            raise ValueError(
                f"this is no tokenizer.json that the tokenizers library can read ({error}); take the one of "
                "google/paligemma-3b-pt-224"
            ) from error
        begin = self.tokenizer.token_to_id(BEGIN)
        largest = max(self.tokenizer.get_vocab(with_added_tokens=True).values())
        if begin is None or largest >= vocabulary:
            raise ValueError(
                f"the tokeniser must know {BEGIN!r} and no id above {vocabulary - 1}, its largest is {largest}; take "
                "tokenizer.json of google/paligemma-3b-pt-224"
            )
        self.begin = begin
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def encode(self, instructions: Sequence[str], state_BS: Tensor | None) -> Tensor:
        """Token ids [B, length], -1 behind the end of a row.

        Args:
            state_BS: normalised states, or None for the format without state.

        Raises:
            UnknownInstruction: an instruction is empty, or its prompt longer than ``length``.
            ValueError: a state is not finite.
        """
        bins = None if state_BS is None else state_bins(state_BS).tolist()
        ids = torch.full((len(instructions), self.length), -1, dtype=torch.long)
        for row, instruction in enumerate(instructions):
            if not clean(instruction):
                raise UnknownInstruction("the instruction is empty; say what the robot should do")
            # The published tokenisation without state encodes the line end by itself.
            pieces = [clean(instruction), "\n"] if bins is None else [with_state(instruction, bins[row])]
            encoded = [self.begin]
            for piece in pieces:
                encoded += self.tokenizer.encode(piece, add_special_tokens=False).ids
            if len(encoded) > self.length:
                raise UnknownInstruction(
                    f"the prompt of {instruction!r} has {len(encoded)} tokens, at most {self.length} fit; shorten the "
                    "instruction or build the policy with a larger prompt_tokens (published: 200)"
                )
            ids[row, : len(encoded)] = torch.tensor(encoded)
        return ids


def with_state(instruction: str, bins: Sequence[int]) -> str:
    """The prompt's text for an instruction and the bins of the state."""
    return f"Task: {clean(instruction)}, State: {' '.join(map(str, bins))};\nAction: "


def read_tokenizer(place: Path) -> bytes:
    """The tokeniser as ``tokenizer.json``, from that file, a SentencePiece model, or a folder that holds one.

    Raises:
        FileNotFoundError: the folder holds none.
        ValueError: a damaged SentencePiece model.
    """
    candidates = [place / name for name in (TOKENIZER, *SENTENCEPIECE)] if place.is_dir() else [place]
    for path in candidates:
        if path.is_file():
            content = path.read_bytes()
            return tokenizer_from_sentencepiece(content) if path.suffix == ".model" else content
    raise FileNotFoundError(
        f"no tokeniser at {place} (looked for {', '.join(path.name for path in candidates)}); published weights of "
        "pi0.5 come without: take tokenizer.json of google/paligemma-3b-pt-224, or paligemma_tokenizer.model"
    )
