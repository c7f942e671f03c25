"""Published weights of pi0.5: names, shapes, counts, gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from prophrl_models.data.episode import ACTION_NAMES, STATE_NAMES
from prophrl_models.data.normalise import Normalisation, StatisticsAccumulator
from prophrl_models.policies.load import load_policy
from prophrl_models.policies.official import OfficialWeightsError, load_tensors
from prophrl_models.policies.pi05 import Pi05Policy, build, from_official
from prophrl_models.policies.pi05_config import Pi05Config
from prophrl_models.policies.pi05_weights import Translation
from prophrl_models.training.checkpoint import CheckpointError, save_policy
from tests.helpers import pi05 as helper

EXPERT_HEAD = "paligemma_with_expert.gemma_expert.lm_head.weight"
VLM_HEAD = "paligemma_with_expert.paligemma.lm_head.weight"


def write(folder: Path, tensors: dict[str, Tensor], prefix: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    save_file({prefix + name: value for name, value in tensors.items()}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_bytes(helper.tokenizer_json())
    return folder


def published(**changes: object) -> dict[str, Tensor]:
    return helper.random_tensors(helper.published_shapes(helper.config(), **changes))  # type: ignore[arg-type]


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("prefix", ["", "model."], ids=["openpi", "lerobot"])
@pytest.mark.parametrize("embedding", ["head", "tokens"])
def test_published_files_fill_the_policy_without_a_gap(tmp_path: Path, prefix: str, embedding: str) -> None:
    tensors = published(embedding=embedding)
    policy, report = from_official(write(tmp_path, tensors, prefix), helper.spec(), config=helper.config())
    assert report.missing == report.unexpected == report.new == ()
    assert report.unused == (prefix + EXPERT_HEAD,)
    assert report.loaded == len(policy.state_dict()) == len(tensors) - 1
    own = policy.state_dict()
    name = VLM_HEAD if embedding == "head" else VLM_HEAD.replace("lm_head", "model.language_model.embed_tokens")
    pairs = {
        "prefix.embed_tokens.weight": name,
        "vision.layers.1.self_attn.out_proj.weight": "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
        "encoder.layers.1.self_attn.out_proj.weight",
        "projector.bias": "paligemma_with_expert.paligemma.model.multi_modal_projector.linear.bias",
        "prefix.layers.2.mlp.gate_proj.weight": "paligemma_with_expert.paligemma.model.language_model.layers.2.mlp."
        "gate_proj.weight",
        "expert.layers.0.input_layernorm.dense.bias": "paligemma_with_expert.gemma_expert.model.layers.0."
        "input_layernorm.dense.bias",
        "expert.norm.dense.weight": "paligemma_with_expert.gemma_expert.model.norm.dense.weight",
        "time_mlp_out.weight": "time_mlp_out.weight",
    }
    for ours, theirs in pairs.items():
        assert torch.equal(own[ours], tensors[theirs]), ours


def test_files_of_newer_transformers_lack_a_level_in_the_vision_names_and_load_too(tmp_path: Path) -> None:
    tensors = {name.replace("vision_tower.vision_model.", "vision_tower."): x for name, x in published().items()}
    report = from_official(write(tmp_path, tensors, "model."), helper.spec(), config=helper.config())[1]
    assert report.loaded == len(tensors) - 1


def test_embedding_under_both_names_loads_when_equal_and_is_a_gap_when_not(tmp_path: Path) -> None:
    tensors = published(embedding="both")
    twin = VLM_HEAD.replace("lm_head", "model.language_model.embed_tokens")
    with pytest.raises(OfficialWeightsError, match=r"1 unexpected .*embed_tokens"):
        from_official(write(tmp_path, tensors), helper.spec(), config=helper.config())
    tensors[twin] = tensors[VLM_HEAD].clone()
    report = from_official(write(tmp_path, tensors), helper.spec(), config=helper.config())[1]
    assert set(report.unused) == {EXPERT_HEAD, twin}


def test_missing_strange_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    tensors = published()
    del tensors["time_mlp_in.bias"]
    tensors["state_proj.weight"] = torch.zeros(2, 2)  # pi0 has it, pi0.5 does not
    tensors["action_in_proj.weight"] = torch.zeros(3, 3)
    with pytest.raises(OfficialWeightsError) as error:
        from_official(write(tmp_path, tensors), helper.spec(), config=helper.config())
    message = str(error.value)
    assert "2 missing" in message and "time_mlp_in.bias" in message
    assert "2 unexpected" in message and "state_proj.weight" in message and "(3, 3)" in message


def test_weights_of_pi0_are_refused(tmp_path: Path) -> None:
    """pi0's expert has plain norms: their names must not slip through."""
    tensors = {
        name.replace("layernorm.dense.weight", "layernorm.weight"): x
        for name, x in published().items()
        if "layernorm.dense.bias" not in name
    }
    with pytest.raises(OfficialWeightsError, match=r"expert.*input_layernorm.weight"):
        from_official(write(tmp_path, tensors), helper.spec(), config=helper.config())


def test_folder_without_tokeniser_is_refused_and_one_given_beside_is_used(tmp_path: Path) -> None:
    folder = write(tmp_path / "weights", published())
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(FileNotFoundError, match="paligemma"):
        from_official(folder, helper.spec(), config=helper.config())
    policy, _ = from_official(folder, helper.spec(), config=helper.config(), tokenizer=tmp_path)
    assert policy.assets() == {"tokenizer.json": helper.tokenizer_json()}


def test_loaded_policy_has_no_state_besides_its_weights_and_acts(tmp_path: Path) -> None:
    """What a module computes at construction is lost on the meta device; nothing may depend on such a thing."""
    policy, _ = from_official(write(tmp_path, published()), helper.spec(), config=helper.config())
    assert list(policy.buffers()) == []
    twin = Pi05Policy(helper.spec(), helper.config(), helper.tokenizer_json()).eval()
    twin.load_state_dict(policy.state_dict())
    obs = helper.observations(2)
    assert torch.equal(policy.act(obs), twin.act(obs))


def test_full_size_has_the_published_number_of_parameters_module_by_module() -> None:
    with torch.device("meta"):
        policy = Pi05Policy(helper.spec(), Pi05Config.full(), helper.tokenizer_json())
    projections = sum(count(policy.get_submodule(n)) for n in ("action_in_proj", "action_out_proj"))
    times = sum(count(policy.get_submodule(n)) for n in ("time_mlp_in", "time_mlp_out"))
    norms = sum(count(m) for name, m in policy.expert.named_modules() if name.endswith("dense"))
    assert count(policy.vision) == 412_442_352
    assert count(policy.projector) == 2_361_344
    assert count(policy.prefix) == 2_508_531_712
    assert norms == 37 * 3_148_800
    assert count(policy.expert) - norms == 18 * 17_301_504
    assert projections == 66_592 and times == 2_099_200
    assert count(policy) == 2_923_335_408 + 37 * 3_148_800 + 311_427_072 + 66_592 + 2_099_200 == 3_353_433_872


def test_full_size_published_names_and_shapes_fit_on_the_meta_device() -> None:
    with torch.device("meta"):
        policy = Pi05Policy(helper.spec(), Pi05Config.full(), helper.tokenizer_json())
        tensors = {name: torch.empty(shape) for name, shape in helper.published_shapes(Pi05Config.full()).items()}
    stored = sum(x.numel() for x in tensors.values())
    assert stored == 3_353_433_872 + 257_152 * 1024  # the expert's output layer is in the files, without use
    report = load_tensors(policy, ((f"model.{name}", x) for name, x in tensors.items()), Translation())
    assert report.missing == report.unexpected == () and report.unused == (f"model.{EXPERT_HEAD}",)
    assert report.loaded == len(tensors) - 1


def test_half_precision_keeps_norms_time_and_actions_in_single_precision() -> None:
    policy = helper.policy(weights="bfloat16")
    dtypes = {name: parameter.dtype for name, parameter in policy.named_parameters()}
    single = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert all(dtype in (torch.float32, torch.bfloat16) for dtype in dtypes.values())
    for name in dtypes:
        sensitive = name.startswith(("action_", "time_")) or "layernorm." in name or ".norm." in name
        assert (name in single) == (sensitive and not name.startswith("vision.")), name
    obs = helper.observations(2)
    reference = helper.policy()
    reference.load_state_dict(policy.state_dict())
    x, t = torch.randn(2, *policy.chain_shape), torch.tensor([1.0, 0.3])
    with torch.no_grad():
        half, single_v = (p.velocity(p.encode(obs), x, t) for p in (policy, reference))
    assert half.dtype == torch.float32
    assert ((half - single_v).norm() / single_v.norm()).item() < 0.03


def test_checkpoint_folder_brings_back_the_same_policy_with_its_tokeniser(tmp_path: Path) -> None:
    policy = helper.policy()
    accumulators = StatisticsAccumulator(STATE_NAMES), StatisticsAccumulator(ACTION_NAMES)
    for accumulator in accumulators:
        accumulator.add(np.random.default_rng(0).normal(size=(10, 7)))
    statistics = Normalisation(*(accumulator.result() for accumulator in accumulators), "none")
    folder = save_policy(tmp_path / "policy", policy, statistics, {"dataset_hash": "none", "calibration_ids": []})
    assert (folder / "assets" / "tokenizer.json").read_bytes() == helper.tokenizer_json()
    again = load_policy(folder)
    assert isinstance(again, Pi05Policy) and again.pi05 == policy.pi05 and again.spec == policy.spec
    obs = helper.observations(2)
    assert torch.equal(policy.act(obs), again.act(obs))


def test_policy_without_its_tokeniser_is_refused() -> None:
    policy = helper.policy()
    with pytest.raises(CheckpointError, match=r"needs the asset tokenizer\.json"):
        build(policy.spec, policy.config(), {})


def test_tiny_stays_small() -> None:
    assert 50_000 < count(Pi05Policy(helper.spec(), Pi05Config.tiny(), helper.tokenizer_json())) < 300_000


@pytest.mark.parametrize(
    "changes", [{"weights": "int4"}, {"image_size": 225}, {"heads": 3, "kv_heads": 2}, {"head_dim": 15}]
)
def test_impossible_sizes_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|choose one of"):
        helper.config(**changes)
