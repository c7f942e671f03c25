"""The network equals diffusers' own where it must, and each stream does what it promises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo.testing
from diffusers import CosmosTransformer3DModel
from diffusers.models.transformers import transformer_cosmos
from torch import Tensor

from prophrl_models.prophet.attention import rotary_tables, rotate
from prophrl_models.prophet.config import MemoryConfig, NetworkConfig, preset
from prophrl_models.prophet.network import GATE_SPEED, Prophet

SMALLEST = NetworkConfig(
    width=64,
    heads=2,
    head_dim=32,
    blocks=2,
    adaln_lora_dim=16,
    text_dim=24,
    actions=20,
    action_frames="pooled",
    memory=MemoryConfig(strides=((1, 2, 2), (1, 2, 3), (1, 4, 6)), gated=True),
)
LATENT = (2, 16, 6, 4, 6)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def stir(network: torch.nn.Module, scale: float = 0.1) -> None:
    """Random numbers everywhere, zero-initialised layers included."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


def genuine(config: NetworkConfig) -> CosmosTransformer3DModel:
    return CosmosTransformer3DModel(
        in_channels=config.latent_channels + 1,
        out_channels=config.latent_channels,
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        num_layers=config.blocks,
        mlp_ratio=config.mlp_ratio,
        text_embed_dim=config.text_dim,
        adaln_lora_dim=config.adaln_lora_dim,
        max_size=config.max_size,
        patch_size=config.patch,
        rope_scale=config.rope_scale,
        concat_padding_mask=True,
        extra_pos_embed_type=None,
    )


@contextmanager
def nearest_resize() -> Iterator[None]:
    """diffusers resizes the padding mask with torchvision, which need not be installed: the same with torch."""

    def resize(image: Tensor, size: list[int], interpolation: str) -> Tensor:
        return torch.nn.functional.interpolate(image, size, mode=interpolation)

    had = getattr(transformer_cosmos, "transforms", None)
    transformer_cosmos.transforms = SimpleNamespace(
        functional=SimpleNamespace(resize=resize), InterpolationMode=SimpleNamespace(NEAREST="nearest")
    )
    try:
        yield
    finally:
        transformer_cosmos.transforms = had


def run_genuine(model: CosmosTransformer3DModel, latent: Tensor, t_BL: Tensor, text: Tensor) -> Tensor:
    mask = torch.zeros_like(latent[:, :1])
    mask[:, :, 0] = 1.0
    with nearest_resize():
        return model(
            latent,
            t_BL[:, None, :, None, None],
            text,
            fps=None,
            condition_mask=mask,
            padding_mask=torch.zeros(1, 1, 32, 48),
            return_dict=False,
        )[0]


def everything(network: Prophet, rows: int = 2) -> dict[str, Tensor]:
    size = (rows, *LATENT[1:])
    streams = {"actions_BAX": torch.randn(rows, 20, 14)}
    if network.action_frames is not None:
        streams["frame_latent_BCLHW"] = torch.randn(size)
    if network.memory is not None:
        streams["history_BCMHW"] = torch.randn(rows, 16, 15, *LATENT[3:])
    return streams


@pytest.mark.parametrize("rope_scale", [(1.0, 3.0, 3.0), (20 / 24, 2.0, 2.0)])
def test_the_whole_forward_pass_equals_diffusers_without_conditionings(rope_scale: tuple[float, float, float]) -> None:
    config = replace(SMALLEST, rope_scale=rope_scale)
    model = genuine(config)
    stir(model)
    network = Prophet(config)
    missing, unexpected = network.load_state_dict(model.state_dict(), strict=False)
    assert unexpected == [] and sorted(missing) == sorted(network.new_parameters())
    latent, t_BL, text = torch.randn(LATENT), torch.rand(LATENT[0], LATENT[2]), torch.randn(2, 5, 24)
    with torch.no_grad():
        expected = run_genuine(model, latent, t_BL, text)
        assert expected.abs().mean() > 0.1
        torch.testing.assert_close(network(latent, t_BL, text_BED=text), expected, atol=1e-5, rtol=1e-5)
        # The zero embedding: ours skips cross-attention, diffusers computes it.
        expected = run_genuine(model, latent, t_BL, torch.zeros_like(text))
        torch.testing.assert_close(network(latent, t_BL), expected, atol=1e-5, rtol=1e-5)
        # Without cross-attention modules nothing changes either.
        bare = Prophet(replace(config, text=False))
        kept = {n: w for n, w in model.state_dict().items() if ".attn2." not in n and ".norm2." not in n}
        assert bare.load_state_dict(kept, strict=False).unexpected_keys == []
        torch.testing.assert_close(bare(latent, t_BL), expected, atol=1e-5, rtol=1e-5)


def test_positions_equal_those_of_the_2b_network() -> None:
    config = preset("2b").network
    rope = transformer_cosmos.CosmosRotaryPosEmbed(128, config.max_size, config.patch, rope_scale=config.rope_scale)
    cos, sin = rope(torch.empty(1, 16, 6, 30, 40), fps=None)
    ours = rotary_tables((6, 15, 20), config.head_dim, config.rope_scale, torch.device("cpu"))
    for mine, theirs in zip(ours, (cos, sin), strict=True):
        torch.testing.assert_close(torch.cat([mine, mine], dim=-1), theirs, atol=1e-6, rtol=0)
    x = torch.randn(2, 1800, 3, 128)
    from diffusers.models.embeddings import apply_rotary_emb

    expected = apply_rotary_emb(x.transpose(1, 2), (cos, sin), use_real_unbind_dim=-2).transpose(1, 2)
    torch.testing.assert_close(rotate(x, *ours), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stream", ["pooled", "patch"])
def test_new_streams_do_not_change_a_pretrained_network(stream: str) -> None:
    config = replace(SMALLEST, action_frames=stream)
    model = genuine(config)
    stir(model)
    network = Prophet(config)
    network.load_state_dict(model.state_dict(), strict=False)
    latent, t_BL = torch.randn(LATENT), torch.rand(LATENT[0], LATENT[2])
    for with_gradient in (False, True):
        with torch.set_grad_enabled(with_gradient):
            changed = network(latent, t_BL, **everything(network)) - network(latent, t_BL)
        assert changed.abs().max() < 1e-5


@pytest.mark.parametrize("name", ["actions_BAX", "frame_latent_BCLHW", "history_BCMHW"])
@pytest.mark.parametrize("stream", ["pooled", "patch"])
def test_a_trained_stream_changes_the_output_and_is_not_the_same_for_all_rows(name: str, stream: str) -> None:
    network = Prophet(replace(SMALLEST, action_frames=stream))
    stir(network)
    with torch.no_grad():
        latent, t_BL = torch.randn(LATENT), torch.rand(LATENT[0], LATENT[2])
        inputs = everything(network)
        before = network(latent, t_BL, **inputs)
        inputs[name] = inputs[name].clone()
        inputs[name][1].add_(torch.randn_like(inputs[name][1]))
        difference = (network(latent, t_BL, **inputs) - before).abs().amax(dim=(1, 2, 3, 4))
    assert difference[1] > 1e-4
    assert difference[0] < 1e-6


def test_scalar_actions_enter_before_the_norm_of_the_time_embedding() -> None:
    """A second derivation of the time path, from the specification's words."""
    network = Prophet(SMALLEST)
    stir(network)
    t_BL, actions = torch.rand(2, 6), torch.randn(2, 20, 14)
    time, adaln = network._time(t_BL, torch.zeros(6), actions, None)
    half = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(32) / 32)
    code = torch.cat([(t_BL[..., None] * half).cos(), (t_BL[..., None] * half).sin()], dim=-1)
    mlps = network.scalar_actions
    flat = actions.reshape(2, 1, 280)
    act = torch.nn.GELU(approximate="tanh")
    shifted = code + mlps.to_time.fc2(act(mlps.to_time.fc1(flat)))
    normed = shifted / (shifted.square().mean(-1, keepdim=True) + 1e-6).sqrt() * network.time_embed.norm.weight
    torch.testing.assert_close(time, normed * normed.sigmoid(), atol=1e-5, rtol=1e-5)
    expected = network.time_embed.t_embedder(code) + mlps.to_adaln.fc2(act(mlps.to_adaln.fc1(flat)))
    torch.testing.assert_close(adaln, expected, atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_new_parameter_within_one_optimiser_step() -> None:
    """The doors (zero layers and gates) at once, what lies behind them as soon as they have opened."""
    for stream in ("pooled", "patch"):
        network = Prophet(replace(SMALLEST, action_frames=stream))
        network.init_weights()
        pretrained = genuine(SMALLEST)
        stir(pretrained)
        network.load_state_dict(pretrained.state_dict(), strict=False)
        fresh = Prophet(replace(SMALLEST, action_frames=stream)).state_dict()
        network.load_state_dict({n: fresh[n] for n in network.new_parameters()}, strict=False)
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
        latent, t_BL, streams = torch.randn(LATENT), torch.rand(2, 6), everything(network)
        for _ in range(2):
            optimiser.zero_grad()
            network(latent, t_BL, **streams).square().mean().backward()
            reached = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
            optimiser.step()
        assert set(network.new_parameters()) <= reached


def test_from_scratch_every_parameter_trains_within_a_few_steps_and_the_loss_falls() -> None:
    network = Prophet(preset("tiny").network)
    network.init_weights(torch.Generator().manual_seed(1))
    again = Prophet(preset("tiny").network)
    again.init_weights(torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    latent, t_BL, streams = torch.randn(LATENT), torch.rand(2, 6), everything(network)
    assert network(latent, t_BL, **streams).abs().max() == 0.0  # adaLN-zero: the untrained velocity is zero
    target = torch.randn(LATENT)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (network(latent, t_BL, **streams) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    assert losses[-1] < 0.3 * losses[0]


def test_time_of_one_latent_frame_modulates_only_that_frame() -> None:
    """With one block cut down to its feed-forward, tokens of other latent frames cannot change."""
    network = Prophet(replace(SMALLEST, blocks=1))
    stir(network)
    with torch.no_grad():
        network.transformer_blocks[0].attn1.to_out[0].weight.zero_()
        latent, t_BL = torch.randn(LATENT), torch.rand(2, 6)
        other = t_BL.clone()
        other[:, 3] += 0.3
        change = (network(latent, other) - network(latent, t_BL)).abs().amax(dim=(0, 1, 3, 4))
    assert change[3] > 1e-3 and change[[0, 1, 2, 4, 5]].max() == 0.0


def test_bfloat16_autocast_and_bfloat16_weights_stay_close_to_float32() -> None:
    network = Prophet(SMALLEST)
    network.init_weights()
    stir(network, 0.05)
    latent, t_BL, streams = torch.randn(LATENT), torch.rand(2, 6), everything(network)
    with torch.no_grad():
        expected = network(latent, t_BL, **streams)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = network(latent, t_BL, **streams)
        pure = network.bfloat16()(latent.bfloat16(), t_BL, **streams)
    assert mixed.dtype == torch.float32 and pure.dtype == torch.bfloat16
    size = expected.square().mean().sqrt()
    assert (mixed - expected).square().mean().sqrt() < 0.02 * size
    assert (pure.float() - expected).square().mean().sqrt() < 0.04 * size


def test_gradient_checkpointing_changes_no_gradient() -> None:
    network = Prophet(SMALLEST)
    stir(network)
    latent, t_BL, streams = torch.randn(LATENT), torch.rand(2, 6), everything(network)
    grads = []
    for checkpointing in (False, True):
        network.zero_grad()
        if checkpointing:
            network.enable_gradient_checkpointing()
        network(latent, t_BL, **streams).square().mean().backward()
        grads.append({n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None})
    assert set(grads[0]) == set(grads[1])
    for name in grads[0]:
        torch.testing.assert_close(grads[1][name], grads[0][name], atol=1e-6, rtol=1e-5)


def test_parameters_of_the_2b_network_module_by_module() -> None:
    """Specification 4.2: 1956.41 + 71.72 + 21.04 + 8.49 = 2057.67 million, and one gate per block and head."""
    with torch.device("meta"):
        network = Prophet(preset("2b").network)
    D, X = 2048, 280
    base = {
        "patch_embed": 18 * 4 * D,
        "time_embed": D * D + D * 3 * D + D,
        "transformer_blocks": 28
        * (
            (4 * D * D + 2 * 128)  # attn1
            + (2 * D * D + 2 * D * 1024 + 2 * 128)  # attn2
            + 3 * (D * 256 + 256 * 3 * D)  # norm1, norm2, norm3
            + 2 * D * 4 * D  # ff
        ),
        "norm_out": D * 256 + 256 * 2 * D,
        "proj_out": D * 64,
    }
    assert sum(base.values()) == 1_956_413_440
    new = {
        "scalar_actions": (X * 4 * D + 4 * D + 4 * D * D + D) + (X * 4 * D + 4 * D + 4 * D * 3 * D + 3 * D),
        "action_frames": (16 * D + D) + 9 * D + D * D + (2 * D + D * D + D) + (2 * D + D * 3 * D + 3 * D),
        "memory": 3 * (16 * D + D) + 2 * D * D,
    }
    gates = 28 * 16
    for name, expected in (base | new).items():
        found = sum(p.numel() for p in getattr(network, name).parameters())
        assert found == expected + (gates if name == "transformer_blocks" else 0), name
    total = sum(p.numel() for p in network.parameters())
    assert total == sum(base.values()) + sum(new.values()) + gates
    assert round(total / 1e6, 2) == 2057.67


@pytest.mark.parametrize(("name", "low", "high"), [("tiny", 0.1, 0.5), ("small", 5, 10.9), ("base", 50, 150)])
def test_presets_have_their_size(name: str, low: float, high: float) -> None:
    with torch.device("meta"):
        network = Prophet(preset(name).network)
    assert low < sum(p.numel() for p in network.parameters()) / 1e6 < high
    assert not any("attn2" in n or "norm2" in n for n, _ in network.named_parameters())


def test_inputs_that_do_not_fit_are_refused() -> None:
    network = Prophet(replace(SMALLEST, text=False, memory=None, action_frames="none", scalar_actions=False))
    latent, t_BL = torch.randn(LATENT), torch.rand(2, 6)
    for words, inputs in (
        ("no scalar action stream", {"actions_BAX": torch.zeros(2, 20, 14)}),
        ("no action frame stream", {"frame_latent_BCLHW": latent}),
        ("no memory", {"history_BCMHW": latent}),
        ("no cross-attention", {"text_BED": torch.zeros(2, 1, 24)}),
    ):
        with pytest.raises(ValueError, match=words):
            network(latent, t_BL, **inputs)
    with pytest.raises(ValueError, match="no memory"):
        network.remember(latent)
    with pytest.raises(ValueError, match=r"times must be \[2, 6\]"):
        network(latent, t_BL[:, :1])
    with pytest.raises(ValueError, match="do not fit patches"):
        network(latent[..., :5], t_BL)
    full = Prophet(SMALLEST)
    with pytest.raises(ValueError, match=r"actions must be \[B, 20, 14\]"):
        full(latent, t_BL, actions_BAX=torch.zeros(2, 19, 14))
    with pytest.raises(ValueError, match="action frames must be"):
        full(latent, t_BL, frame_latent_BCLHW=latent[:, :, 1:])
    with pytest.raises(ValueError, match=r"use Memory\.repeat"):
        full(latent, t_BL, memory=full.remember(torch.randn(1, 16, 15, 4, 6)))


def test_a_gate_of_one_is_plain_concatenation() -> None:
    gated = Prophet(SMALLEST)
    stir(gated)
    with torch.no_grad():
        for block in gated.transformer_blocks:
            block.memory_gate.fill_(1.0 / GATE_SPEED)
    plain = Prophet(replace(SMALLEST, memory=replace(SMALLEST.memory, gated=False)))
    kept = {n: w for n, w in gated.state_dict().items() if not n.endswith("memory_gate")}
    plain.load_state_dict(kept)
    latent, t_BL, streams = torch.randn(LATENT), torch.rand(2, 6), everything(gated)
    for with_gradient in (False, True):
        with torch.set_grad_enabled(with_gradient):
            a, b = gated(latent, t_BL, **streams), plain(latent, t_BL, **streams)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("gated", [False, True])
def test_the_network_is_one_graph_for_the_compiler(gated: bool) -> None:
    """No data-dependent Python: traced whole, and not again for other values of the same shapes."""
    config = replace(SMALLEST, blocks=1, memory=replace(SMALLEST.memory, gated=gated))
    network = Prophet(config)
    stir(network)
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    traced = torch.compile(network, backend=counter, fullgraph=True)
    streams = everything(network)
    with torch.no_grad():
        memory = network.remember(streams.pop("history_BCMHW"))
        for _ in range(3):
            latent, t_BL = torch.randn(LATENT), torch.rand(2, 6)
            expected = network(latent, t_BL, memory=memory, **streams)
            torch.testing.assert_close(traced(latent, t_BL, memory=memory, **streams), expected, atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1
