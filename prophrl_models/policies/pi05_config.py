"""Sizes of the pi0.5 policy."""

from __future__ import annotations

from dataclasses import dataclass

WEIGHTS = ("bfloat16", "float32")


@dataclass(frozen=True)
class Pi05Config:
    """Sizes of pi0.5; the defaults are the published ones (openpi: SigLIP So400m/14, gemma_2b, gemma_300m).

    Attributes:
        image_size, patch: side of the square picture and of a patch, pixels.
        vision_width, vision_depth, vision_heads, vision_mlp: SigLIP tower.
        width, depth, mlp, vocabulary: language model that reads the prefix.
        heads, kv_heads, head_dim: attention of language model and expert; they attend to each other, so they share it.
        expert_width, expert_mlp: action expert.
        action_width: numbers of an action after padding.
        prompt_tokens: length that prompts are padded to. The result does not depend on it; a shorter one is faster.
        state_in_prompt: write the state into the prompt; False for checkpoints trained without, such as pi05_libero.
        weights: "bfloat16" (norms, time and action projections stay float32) or "float32".
    """

    image_size: int = 224
    patch: int = 14
    vision_width: int = 1152
    vision_depth: int = 27
    vision_heads: int = 16
    vision_mlp: int = 4304
    width: int = 2048
    depth: int = 18
    mlp: int = 16384
    vocabulary: int = 257152
    heads: int = 8
    kv_heads: int = 1
    head_dim: int = 256
    expert_width: int = 1024
    expert_mlp: int = 4096
    action_width: int = 32
    prompt_tokens: int = 200
    state_in_prompt: bool = True
    weights: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"unknown weights {self.weights!r}; choose one of {', '.join(WEIGHTS)}")
        for name, whole, part in (
            ("image_size must be a multiple of patch", self.image_size, self.patch),
            ("vision_width must be a multiple of vision_heads", self.vision_width, self.vision_heads),
            ("heads must be a multiple of kv_heads", self.heads, self.kv_heads),
            ("head_dim must be even", self.head_dim, 2),
            ("expert_width must be even", self.expert_width, 2),
        ):
            if whole % part:
                raise ValueError(f"{name}, got {whole} and {part}")

    @classmethod
    def full(cls) -> Pi05Config:
        """The published 3.35 B model."""
        return cls()

    @classmethod
    def tiny(cls) -> Pi05Config:
        """The same architecture below 300 k parameters, for tests on a CPU."""
        return cls(
            image_size=28,
            vision_width=32,
            vision_depth=2,
            vision_heads=2,
            vision_mlp=48,
            width=48,
            depth=3,
            mlp=96,
            vocabulary=384,
            heads=4,
            head_dim=16,
            expert_width=48,
            expert_mlp=96,
            prompt_tokens=96,
            weights="float32",
        )

    @property
    def image_tokens(self) -> int:
        """Tokens of one picture."""
        return (self.image_size // self.patch) ** 2
