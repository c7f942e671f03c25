"""The sequence of batches is the same for any number of workers, ranks and interruptions."""

from __future__ import annotations

import json
from itertools import chain

import pytest
import torch

from prophrl_models.data.mixture import Mixture
from prophrl_models.data.mixture_batch import MixtureBatch
from prophrl_models.data.mixture_config import MixtureError
from prophrl_models.data.mixture_loader import MixtureLoader
from tests.helpers.mixtures import Published, publish


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published"))


def rows(batches: list[MixtureBatch]) -> list[tuple[str, str, int]]:
    found = [[(b.source, e, int(a)) for e, a in zip(b.episode_id, b.anchor_B, strict=True)] for b in batches]
    return list(chain.from_iterable(found))


def same(one: MixtureBatch, other: MixtureBatch) -> bool:
    return rows([one]) == rows([other]) and all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("images_BTHW3", "state_BTN7", "action_BTN7", "effector_mask_BN", "frame_valid_BT")
    )


def test_any_number_of_workers_gives_the_same_batches(published: Published) -> None:
    mixture = Mixture(published.mixture())
    expected = list(MixtureLoader(mixture).take(9))
    for workers in (1, 2):
        loader = MixtureLoader(mixture, workers=workers)
        found = list(loader.take(9))
        assert loader.state()["next_batch"] == 9, "batches that workers prepared ahead do not count"
        loader.close()
        assert len(found) == 9 and all(map(same, expected, found))


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(published: Published) -> None:
    config = published.mixture()
    whole = list(MixtureLoader(Mixture(config)).take(40))
    before = MixtureLoader(Mixture(config))
    first = list(before.take(17))
    state = json.loads(json.dumps(before.state()))
    rest = list(MixtureLoader(Mixture(config), state=state).take(23))
    assert all(map(same, whole, first + rest)) and len(first + rest) == 40
    assert max(entry["epoch"] for entry in state["positions"].values()) >= 1, "the resume lies beyond an epoch"


def test_ranks_are_disjoint_and_cover_what_one_process_sees(published: Published) -> None:
    config = published.mixture("bridge", batch_size=1)
    mixture = Mixture(config)
    half = mixture.windows // 2
    parts = [rows(list(MixtureLoader(Mixture(config), rank=r, world_size=2).take(half))) for r in range(2)]
    assert mixture.windows == 2 * half
    assert not set(parts[0]) & set(parts[1])
    assert len(set(parts[0]) | set(parts[1])) == mixture.windows
    assert rows(list(MixtureLoader(mixture).take(mixture.windows))) == list(chain(*zip(*parts, strict=True)))


def test_another_number_of_ranks_may_resume(published: Published) -> None:
    config = published.mixture()
    two = [MixtureLoader(Mixture(config), rank=rank, world_size=2) for rank in range(2)]
    done = [list(loader.take(3)) for loader in two]
    assert two[0].state() == two[1].state()
    more = list(MixtureLoader(Mixture(config), state=two[0].state()).take(2))
    expected = rows(list(MixtureLoader(Mixture(config)).take(8)))
    together = [batch for pair in zip(*done, strict=True) for batch in pair]
    assert rows(together + more) == expected


def test_a_state_of_another_mixture_is_refused(published: Published) -> None:
    state = MixtureLoader(Mixture(published.mixture())).state()
    other = Mixture(published.mixture(seed=6, batch_size=2))
    with pytest.raises(MixtureError, match=r"different: seed 5 -> 6; batch_size 3 -> 2\. Use the configuration"):
        MixtureLoader(other, state=state)
    fewer = Mixture(published.mixture("bridge"))
    with pytest.raises(MixtureError, match=r"sources\.libero"):
        MixtureLoader(fewer, state=state)
    mixture = Mixture(published.mixture())
    with pytest.raises(MixtureError, match="next_batch"):
        MixtureLoader(mixture, state={"version": 1})
    with pytest.raises(MixtureError, match="state was changed"):
        MixtureLoader(mixture, state={**state, "next_batch": 4})
    with pytest.raises(MixtureError, match="another version of NumPy"):
        MixtureLoader(mixture, state={**state, "next_windows": state["next_windows"][::-1]})


def test_impossible_ranks_and_workers_are_refused(published: Published) -> None:
    mixture = Mixture(published.mixture("bridge"))
    with pytest.raises(MixtureError, match="got rank 2 of 2"):
        MixtureLoader(mixture, rank=2, world_size=2)
    with pytest.raises(MixtureError, match="workers must be 0 or more"):
        MixtureLoader(mixture, workers=-1)


def test_no_more_episodes_stay_open_than_allowed(published: Published) -> None:
    mixture = Mixture(published.mixture(open_episodes=2))
    for batch in MixtureLoader(mixture).take(12):
        assert len(batch) == 3 and len(mixture._open) <= 2
