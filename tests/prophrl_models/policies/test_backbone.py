"""Defaults that the trainer reads off a policy's module tree."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from prophrl_models.policies.backbone import BackboneMixin


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.runs = 0

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        self.runs += 1
        return x + scale * self.inner[1](self.inner[0](x).tanh())


class Stack(BackboneMixin):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Module()
        self.trunk.layers = nn.ModuleList(Layer(4) for _ in range(3))
        self.single = nn.ModuleList([nn.Linear(4, 4)])
        self.head = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.trunk.layers:
            x = layer(x, scale=0.5)
        return self.head[1](self.head[0](x))


@pytest.fixture
def stack() -> Stack:
    return Stack()


def test_blocks_are_the_outermost_repeated_layers(stack: Stack) -> None:
    assert [id(b) for b in stack.blocks()] == [id(b) for b in [*stack.trunk.layers, *stack.head]]


def test_lora_adapts_linear_layers_of_the_blocks_but_not_the_head(stack: Stack) -> None:
    expected = [f"trunk.layers.{i}.inner.{k}" for i in range(3) for k in range(2)]
    assert stack.lora_targets() == expected


def test_head_parameters_are_those_under_the_head(stack: Stack) -> None:
    assert sorted(stack.head_parameters()) == sorted(f"head.{k}.{x}" for k in range(2) for x in ("weight", "bias"))


def test_checkpointing_recomputes_and_gives_the_same_gradients(stack: Stack) -> None:
    x = torch.randn(2, 4)
    stack(x).square().sum().backward()
    plain = {name: p.grad for name, p in stack.named_parameters() if p.grad is not None}
    other = Stack()
    other.enable_gradient_checkpointing()
    other.enable_gradient_checkpointing()
    assert list(other.state_dict()) == list(stack.state_dict())
    other(x).square().sum().backward()
    for name, parameter in other.named_parameters():
        if name in plain:
            torch.testing.assert_close(parameter.grad, plain[name])
    assert [layer.runs for layer in other.trunk.layers] == [2, 2, 2]
    with torch.no_grad():
        other(x)
    assert [layer.runs for layer in other.trunk.layers] == [3, 3, 3]


def test_a_copy_of_a_checkpointed_policy_runs_its_own_layers(stack: Stack) -> None:
    stack.enable_gradient_checkpointing()
    twin = copy.deepcopy(stack)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin(torch.randn(1, 4))
    assert [layer.runs for layer in stack.trunk.layers] == [0, 0, 0]
    assert [layer.runs for layer in twin.trunk.layers] == [1, 1, 1]
