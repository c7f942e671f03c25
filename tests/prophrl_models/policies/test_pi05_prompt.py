"""pi0.5's prompt: bins of the state, text, token ids, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from prophrl_models.policies.interface import ObservationBatch, UnknownInstruction
from prophrl_models.policies.pi05_prompt import Prompts, read_tokenizer, state_bins
from tests.helpers import pi05 as helper


def prompts(length: int = 96) -> Prompts:
    return Prompts(helper.tokenizer_json(), length, 384)


def test_bins_are_openpis_digitize_inside_the_range_and_at_every_edge() -> None:
    edges = np.linspace(-1.0, 1.0, 257)[:-1]
    below, above = np.nextafter(edges, -2.0), np.nextafter(edges, 2.0)
    for values in (edges, below[1:], above, np.random.default_rng(0).uniform(-1, 1, 5000)):
        expected = np.digitize(values, bins=edges) - 1
        assert state_bins(torch.from_numpy(values)[None])[0].tolist() == expected.tolist()


def test_bins_of_single_precision_states_next_to_an_edge_do_not_round_over_it() -> None:
    assert state_bins(torch.tensor([[-1e-12, 0.0, 1e-12]]))[0].tolist() == [127, 128, 128]


def test_states_outside_the_range_are_clipped_to_the_outermost_bins() -> None:
    assert state_bins(torch.tensor([[-5.0, -1.0, 1.0, 7.0]]))[0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_states_that_are_not_finite_are_refused_by_row(value: float) -> None:
    with pytest.raises(ValueError, match=r"rows \[1\] hold NaN or infinity"):
        state_bins(torch.tensor([[0.0, 0.0], [value, 0.0]]))


def test_prompt_with_state_reads_as_published() -> None:
    p = prompts()
    ids = p.encode([" put_the red cube\ninto the bowl "], torch.tensor([[-1.0, 0.0, 0.999]]))
    row = ids[0][ids[0] >= 0].tolist()
    assert row[0] == 2  # <bos>
    assert p.tokenizer.decode(row[1:]) == "Task: put the red cube into the bowl, State: 0 128 255;\nAction: "
    assert (ids[0, len(row) :] == -1).all() and ids.shape == (1, 96)


def test_prompt_without_state_is_the_task_and_a_line_end_of_its_own() -> None:
    p = prompts()
    ids = p.encode(["fold the towel"], None)
    row = ids[0][ids[0] >= 0].tolist()
    assert p.tokenizer.decode(row[1:]) == "fold the towel\n"
    assert row[-1:] == p.tokenizer.encode("\n", add_special_tokens=False).ids


def test_policy_writes_the_scaled_state_into_its_prompt() -> None:
    policy = helper.policy()
    obs = helper.observations(1)
    scaling = policy.spec.state_scaling
    state = torch.tensor(scaling.offset)[None] + torch.tensor(scaling.scale) * torch.tensor(
        [[-1.0, -0.5, 0.0, 0.5, 0.99, 3.0, -3.0]]
    )
    state += 1e-4 * torch.tensor(scaling.scale)  # off the edges, where the units' rounding would decide
    ids = policy.prepare(ObservationBatch(obs.image_BHW3, state, obs.instruction_B)).text[0]
    text = policy.prompts.tokenizer.decode(ids[1:][ids[1:] >= 0].tolist())
    assert "State: 0 64 128 192 254 255 0;" in text


def test_policy_trained_without_state_ignores_it() -> None:
    policy = helper.policy(state_in_prompt=False)
    obs = helper.observations(2)
    moved = ObservationBatch(obs.image_BHW3, obs.state_B7 + 0.2, obs.instruction_B)
    assert torch.equal(policy.prepare(obs).text, policy.prepare(moved).text)
    assert not torch.equal(helper.policy().prepare(obs).text, helper.policy().prepare(moved).text)


def test_prompt_that_is_too_long_is_refused_with_its_length() -> None:
    with pytest.raises(UnknownInstruction, match=r"tokens, at most 20 fit; shorten the instruction"):
        prompts(20).encode(["put the red cube into the bowl " * 3], None)


def test_empty_instruction_is_refused() -> None:
    with pytest.raises(UnknownInstruction, match="the instruction is empty"):
        prompts().encode([" \n"], torch.zeros(1, 7))


def test_state_of_another_width_is_refused() -> None:
    policy = helper.policy()
    obs = helper.observations(2)
    with pytest.raises(ValueError, match=r"states need shape \(2, 7\), got \(2, 8\)"):
        policy.prepare(ObservationBatch(obs.image_BHW3, torch.zeros(2, 8), obs.instruction_B))


def test_policys_prompt_template_surrounds_the_instruction() -> None:
    policy = helper.policy()
    obs = helper.observations(1)
    object.__setattr__(policy.spec, "prompt", "robot, {instruction}")
    ids = policy.prepare(obs).text[0]
    text = policy.prompts.tokenizer.decode(ids[1:][ids[1:] >= 0].tolist())
    assert text.startswith("Task: robot, put the red cube")


def test_tokeniser_without_begin_token_or_with_too_many_ids_is_refused() -> None:
    document = json.loads(helper.tokenizer_json())
    with pytest.raises(ValueError, match="no id above 99"):
        Prompts(helper.tokenizer_json(), 96, 100)
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] != "<bos>"]
    del document["model"]["vocab"]["<bos>"]
    with pytest.raises(ValueError, match="must know '<bos>'"):
        Prompts(json.dumps(document).encode(), 96, 384)
    with pytest.raises(ValueError, match=r"no tokenizer.json"):
        Prompts(b"{}", 96, 384)


def test_tokeniser_is_found_as_a_file_or_in_a_folder_and_its_absence_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"looked for tokenizer.json.*paligemma-3b-pt-224"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(helper.tokenizer_json())
    assert read_tokenizer(tmp_path) == read_tokenizer(tmp_path / "tokenizer.json") == helper.tokenizer_json()
    assert Tokenizer.from_str(read_tokenizer(tmp_path).decode()).token_to_id("<bos>") == 2
