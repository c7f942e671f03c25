"""The training log: what a trim keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from prophrl_models.training.log import LOG_FILE, TrainingLog


@pytest.mark.parametrize(("step", "kept"), [(0, [0.1]), (1, [0.1, 0.2]), (5, [0.1, 0.2, 0.3])])
def test_a_trim_keeps_every_step_up_to_the_given_one_and_no_torn_line(
    tmp_path: Path, step: int, kept: list[float]
) -> None:
    log = TrainingLog(tmp_path)
    for number, loss in enumerate((0.1, 0.2, 0.3)):
        log.write(number, {"loss": loss})
    with open(tmp_path / LOG_FILE, "a") as file:
        file.write('{"step": 3, "lo')
    log.trim(step)
    wanted = "".join(f'{{"step": {number}, "loss": {loss}}}\n' for number, loss in enumerate(kept))
    assert (tmp_path / LOG_FILE).read_text() == wanted
