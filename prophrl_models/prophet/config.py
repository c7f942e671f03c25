"""What a Prophet is: sizes of the network, of its conditioning streams and of its images, and what actions mean.

A configuration is a value: it says nothing about weights or devices, compares by content and goes through JSON
unchanged. Unusable combinations are refused when it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from calibration.action_frame import PLUMB_STYLE, STYLE
from calibration.action_frame_drawing import ActionFrameStyle
from calibration.poses import ActionConvention
from prophrl_models.data.image import WHOLE, ImageRegion
from prophrl_models.policies.interface import Scaling
from prophrl_models.prophet.codec_config import CodecConfig

ACTION_FRAME_STREAMS = ("none", "pooled", "patch")
MEMORY_ORDERS = ("recent_fine", "oldest_fine")
PRESETS = ("tiny", "small", "base", "2b")

TEMPORAL_STRIDE, SPATIAL_STRIDE = 4, 8
"""Frames and pixels of one latent frame and pixel, the same for all codecs."""


@dataclass(frozen=True)
class MemoryConfig:
    """How the history of latent frames becomes memory tokens.

    Attributes:
        frames: length of the history in RGB frames; 60 are 15 latent frames.
        strides: pooling (latent frames, rows, columns) of each level, finest first.
        order: "recent_fine" pools the newest latent frame least; "oldest_fine" the oldest, the released layout.
        max_tokens: tokens beyond this number are dropped, those of the coarsest level first.
        gated: memory enters through a gate per block and head that starts closed, so that a pre-trained network is
            unchanged at first. False: it takes part in attention fully (released weights, training from scratch).
        positions: tokens carry a fixed code of when and where they were (``memory.position_code``). Without it memory
            is a set: attention cannot tell the corner of a picture from its middle. The released network has none.
    """

    frames: int = 60
    strides: tuple[tuple[int, int, int], ...] = ((1, 2, 2), (1, 4, 4), (1, 8, 8))
    order: str = "recent_fine"
    max_tokens: int = 1024
    gated: bool = False
    positions: bool = False

    def __post_init__(self) -> None:
        if self.order not in MEMORY_ORDERS:
            raise ValueError(f"unknown memory order {self.order!r}; choose one of {', '.join(MEMORY_ORDERS)}")
        if self.frames < 1 or self.max_tokens < 1:
            raise ValueError(f"frames and max_tokens must be positive, got {self.frames} and {self.max_tokens}")
        if not self.strides or any(len(stride) != 3 or min(stride) < 1 for stride in self.strides):
            raise ValueError(f"strides must be triples of positive numbers, got {self.strides}; (1, 2, 2) is usual")


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the diffusion transformer; the defaults are Cosmos-Predict2-2B-Video2World's.

    Attributes:
        width, heads, head_dim, blocks, mlp_ratio, adaln_lora_dim: the transformer; width = heads * head_dim.
        text_dim, text: width of text tokens, and whether the blocks have cross-attention to them at all. Prophet
            runs with the zero text embedding, for which cross-attention is exactly zero and is skipped.
        latent_channels: C of the codec.
        patch: latent frames, rows and columns of a token.
        max_size: largest latent size (L, h, w) that positions are defined for.
        rope_scale: NTK factors of rotary frequencies along (L, h, w).
        actions, action_dim: A and X of the scalar stream.
        scalar_actions: whether the numbers of the actions enter (spec 4.3).
        action_frames: "none"; "pooled", the paper's stream (spec 4.4), one vector for each latent frame; or "patch",
            pixel-aligned, added to the tokens.
        plumb_line: action frames, where there are any, also show what lies straight below the TCP
            (``calibration.action_frame.PLUMB_STYLE``).
        memory: how the history enters (spec 4.5), or None for no history.
        known_alone: the known frame stands alone, also where the codec's latents are of four frames each; the group
            that ends with it is then the newest of the history (``history.alone``). Other codecs know no other way.
        anchored: the network says how the known frame changes (``anchor``), not what the clip is; for networks that are
            trained from nothing.
    """

    width: int = 2048
    heads: int = 16
    head_dim: int = 128
    blocks: int = 28
    mlp_ratio: float = 4.0
    adaln_lora_dim: int = 256
    text_dim: int = 1024
    text: bool = True
    latent_channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    max_size: tuple[int, int, int] = (128, 240, 240)
    rope_scale: tuple[float, float, float] = (1.0, 3.0, 3.0)
    actions: int = 20
    action_dim: int = 14
    scalar_actions: bool = True
    action_frames: str = "pooled"
    plumb_line: bool = False
    memory: MemoryConfig | None = field(default_factory=MemoryConfig)
    known_alone: bool = False
    anchored: bool = False

    def __post_init__(self) -> None:
        if self.width != self.heads * self.head_dim:
            raise ValueError(f"width must be heads * head_dim, got {self.width} and {self.heads} * {self.head_dim}")
        if self.head_dim % 2 or self.head_dim < 12:
            # Below 12 the axes get 2 channels each and the NTK exponent d / (d - 2) has no value.
            raise ValueError(f"head_dim must be even and at least 12, got {self.head_dim}; 32, 64 and 128 are usual")
        if self.action_frames not in ACTION_FRAME_STREAMS:
            valid = ", ".join(ACTION_FRAME_STREAMS)
            raise ValueError(f"unknown action frame stream {self.action_frames!r}; choose one of {valid}")
        sizes = ("blocks", "adaln_lora_dim", "text_dim", "latent_channels", "actions", "action_dim")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.patch[0] != 1 or min(self.patch) < 1:
            raise ValueError(f"a patch spans one latent frame, because each has its own time; got {self.patch}")

    @property
    def frame_style(self) -> ActionFrameStyle:
        """How action frames are drawn for it."""
        return PLUMB_STYLE if self.plumb_line else STYLE


@dataclass(frozen=True)
class ProphetConfig:
    """A world model: network, codec, image size and the meaning of its actions.

    Attributes:
        name: of the preset or experiment, for reports.
        image_height, image_width: size of its frames in pixels.
        control_rate_hz: frames and actions per second.
        convention: meaning of an action's six pose numbers.
        action_scaling: environment units [7] (m, rad, opening) to the scalar stream's.
        image_region: the part of the camera's picture that its frames show.
    """

    name: str
    network: NetworkConfig
    codec: CodecConfig
    image_height: int
    image_width: int
    control_rate_hz: float = 10.0
    convention: ActionConvention = ActionConvention.ABSOLUTE_POSE_DIFFERENCE
    action_scaling: Scaling = field(default_factory=lambda: Scaling((0.0,) * 7, (1.0,) * 7))
    image_region: ImageRegion = WHOLE

    def __post_init__(self) -> None:
        _, rows, columns = self.network.patch
        for name, size, step in (
            ("image_height", self.image_height, SPATIAL_STRIDE * rows),
            ("image_width", self.image_width, SPATIAL_STRIDE * columns),
        ):
            if size < step or size % step:
                raise ValueError(f"{name} must be a multiple of {step}, got {size}")
        height, width = self.latent_size
        if height > self.network.max_size[1] or width > self.network.max_size[2]:
            raise ValueError(f"latents of {height} x {width} exceed max_size {self.network.max_size}")
        for stride in self.network.memory.strides if self.network.memory else ():
            if stride[1] > height or stride[2] > width:
                raise ValueError(
                    f"memory pooling {stride} is larger than the latent image of {height} x {width}; use finer strides"
                )
        if self.codec.latent_channels != self.network.latent_channels:
            raise ValueError(
                f"codec and network must agree on latent_channels, got {self.codec.latent_channels} and "
                f"{self.network.latent_channels}"
            )
        if self.control_rate_hz <= 0.0:
            raise ValueError(f"control_rate_hz must be positive, got {self.control_rate_hz}")
        if len(self.action_scaling.scale) != 7:
            raise ValueError(f"action_scaling needs 7 channels, got {len(self.action_scaling.scale)}")

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of a latent frame."""
        return self.image_height // SPATIAL_STRIDE, self.image_width // SPATIAL_STRIDE

    @property
    def latent_frames(self) -> int:
        """L of a clip: the condition frame and one for every four actions."""
        return 1 + self.network.actions // TEMPORAL_STRIDE

    def to_json(self) -> dict[str, Any]:
        """As ``config.json`` of a checkpoint holds it."""
        return {
            **asdict(self),
            "codec": self.codec.to_json(),
            "convention": ActionConvention(self.convention).name,
            "image_region": self.image_region.to_json(),
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> ProphetConfig:
        """Inverse of ``to_json``, also after the way through a JSON file.

        Raises:
            ValueError: a field is missing, unknown or unusable.
        """
        values = _known(ProphetConfig, raw, image_region=WHOLE.to_json())
        network = _known(NetworkConfig, values["network"], plumb_line=False, known_alone=False, anchored=False)
        if network["memory"] is not None:
            memory = _known(MemoryConfig, network["memory"], positions=False)
            network["memory"] = MemoryConfig(**{**memory, "strides": tuple(map(tuple, memory["strides"]))})
        network |= {name: tuple(network[name]) for name in ("patch", "max_size", "rope_scale")}
        if values["convention"] not in ActionConvention.__members__:
            valid = ", ".join(ActionConvention.__members__)
            raise ValueError(f"unknown action convention {values['convention']!r}; choose one of {valid}")
        scaling = _known(Scaling, values["action_scaling"])
        return ProphetConfig(
            **{
                **values,
                "network": NetworkConfig(**network),
                "codec": CodecConfig.from_json(values["codec"]),
                "convention": ActionConvention[values["convention"]],
                "action_scaling": Scaling(tuple(scaling["offset"]), tuple(scaling["scale"])),
                "image_region": ImageRegion.from_json(values["image_region"]),
            }
        )


def _known(kind: type, raw: Any, **unsaid: Any) -> dict[str, Any]:
    """The fields of a dataclass out of JSON; all must be there, and no others. ``unsaid``: what older files mean."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"{kind.__name__} must be an object with named fields, got {raw!r}")
    raw = {**unsaid, **raw}
    names = {f.name for f in fields(kind)}
    if missing := sorted(names - set(raw)):
        raise ValueError(f"{kind.__name__} lacks {', '.join(missing)}; the file belongs to another version")
    if unknown := sorted(set(raw) - names):
        raise ValueError(
            f"{kind.__name__} has no field {', '.join(unknown)}; its fields are {', '.join(sorted(names))}"
        )
    return dict(raw)


def preset(name: str) -> ProphetConfig:
    """A named configuration.

    ``tiny``: tests (32 x 48 pixels, 0.3 M parameters). ``small``: trained from scratch on a CPU or a small GPU (96 x
    128, 10 M). ``base``: from scratch on one large GPU (240 x 320, 0.1 B). ``2b``: Cosmos-Predict2-2B-Video2World
    with the paper's three streams (240 x 320, 2.06 B).

    Raises:
        ValueError: there is no such preset.
    """
    # Levels that divide the latent image, so that pooling sees all of it; the released ones cut its lower edge.
    if name == "tiny":
        memory = MemoryConfig(strides=((1, 2, 2), (1, 2, 3), (1, 4, 6)))
        network = NetworkConfig(
            width=64,
            heads=2,
            head_dim=32,
            blocks=2,
            adaln_lora_dim=16,
            text=False,
            memory=memory,
            action_frames="patch",
        )
        return ProphetConfig(name, network, CodecConfig(kind="small"), image_height=32, image_width=48)
    if name == "small":
        # What moves is a few pixels wide: with 16 channels the codec alone loses half of its motion (docs/log.md).
        codec = CodecConfig(kind="small", latent_channels=48)
        memory = MemoryConfig(strides=((1, 2, 2), (1, 4, 4), (1, 6, 8)), positions=True)
        network = NetworkConfig(
            width=320,
            heads=5,
            head_dim=64,
            blocks=5,
            adaln_lora_dim=64,
            text=False,
            latent_channels=codec.latent_channels,
            memory=memory,
            action_frames="patch",
            anchored=True,
        )
        return ProphetConfig(name, replace(network, rope_scale=(1.0, 1.0, 1.0)), codec, 96, 128)
    if name == "base":
        memory = MemoryConfig(strides=((1, 2, 2), (1, 5, 5), (1, 10, 10)))
        network = NetworkConfig(
            width=768,
            heads=12,
            head_dim=64,
            blocks=12,
            adaln_lora_dim=128,
            text=False,
            memory=memory,
            action_frames="patch",
        )
        return ProphetConfig(name, network, CodecConfig(kind="wan"), image_height=240, image_width=320)
    if name == "2b":
        return ProphetConfig(name, NetworkConfig(memory=MemoryConfig(gated=True)), CodecConfig(kind="wan"), 240, 320)
    raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
