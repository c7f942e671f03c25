"""Settings are changed by dotted name, and read back as they were."""

from __future__ import annotations

import json

import pytest
import yaml

from prophrl_models.prophet.train_settings import ProphetTrainConfig
from prophrl_models.rl.settings import RlSettings, settings_of
from prophrl_models.training.overrides import overridden, parse_overrides, plain_settings
from prophrl_models.training.settings import TrainingError, settings_from


def test_arguments_become_values_of_the_right_kind() -> None:
    found = parse_overrides(
        ["network.blocks=4", "loop.learning_rate=1e-3", "network.memory=null", "train=lora", "a=[1, 2]"]
    )
    assert found == {
        "network.blocks": 4, "loop.learning_rate": 1e-3, "network.memory": None, "train": "lora", "a": [1, 2],
    }  # fmt: skip
    for wrong in ("blocks", "=4"):
        with pytest.raises(TrainingError, match="give KEY=VALUE"):
            parse_overrides([wrong])


def test_changes_touch_nothing_else_and_do_not_lead_through_values() -> None:
    before = {"update": {"beta": 0.1, "alpha": 0.3}, "steps": 3}
    after = overridden(before, {"update.beta": 0.2, "rollout.num_steps": 4})
    assert after == {"update": {"beta": 0.2, "alpha": 0.3}, "steps": 3, "rollout": {"num_steps": 4}}
    assert before == {"update": {"beta": 0.1, "alpha": 0.3}, "steps": 3}
    with pytest.raises(TrainingError, match=r"steps is 3, it holds no further settings"):
        overridden(before, {"steps.more": 1})


@pytest.mark.parametrize("settings", [ProphetTrainConfig(network={"memory": None}), RlSettings(seed=3)])
def test_plain_settings_go_through_yaml_and_json_unchanged(settings: object) -> None:
    plain = plain_settings(settings)
    assert settings_from(type(settings), yaml.safe_load(yaml.safe_dump(plain)), "x") == settings
    assert settings_from(type(settings), json.loads(json.dumps(plain)), "x") == settings


def test_a_name_that_does_not_exist_is_refused_by_the_settings() -> None:
    with pytest.raises(TrainingError, match="did you mean 'beta'"):
        settings_of(overridden(plain_settings(RlSettings()), {"update.betta": 1.0}))
