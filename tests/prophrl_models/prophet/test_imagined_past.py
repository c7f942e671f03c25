"""Clips with an imagined past: one that was imagined right changes nothing, and no error reaches what is learned."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.latents import LatentCache, LatentSpec
from prophrl_models.data.latents_build import build_latents
from prophrl_models.data.windows import WindowRule
from prophrl_models.prophet.clips import CachedClips, ClipBatch
from prophrl_models.prophet.config import ProphetConfig, preset
from prophrl_models.prophet.imagined_past import with_imagined_past
from prophrl_models.prophet.train_settings import ClipOptions
from prophrl_models.training.settings import TrainingError
from tests.helpers.prophet_data import NARROW, new_codec, write_reaches
from tests.helpers.reaches import camera

ALWAYS = ClipOptions(imagined_share=1.0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    folder = tmp_path_factory.mktemp("data")
    dataset = Dataset(write_reaches(folder / "dataset", 3))
    spec = LatentSpec(32, 48, "codec", True, WindowRule(history=60, actions=20, min_actions=4))
    return build_latents(dataset, new_codec(), spec, folder / "latents", cameras=[camera()] * 3)


def clips(cache: LatentCache, options: ClipOptions = ALWAYS, **network: object) -> CachedClips:
    base = preset("tiny")
    changed = dataclasses.replace(base.network, **network)  # type: ignore[arg-type]
    world: ProphetConfig = dataclasses.replace(base, network=changed, codec=NARROW)
    return CachedClips([cache], world, options, batch_size=16)


def longest(cache: LatentCache, **network: object) -> ClipBatch:
    """The first batch with a lead of three links."""
    source = clips(cache, **network)
    found = (source.batch(number) for number in range(50))
    return next(batch for batch in found if len(batch.lead) == 3).to(torch.device("cpu"))


class Knows:
    """A network that imagines what was recorded, off by ``error``."""

    def __init__(self, batch: ClipBatch, error: float = 0.0) -> None:
        self.links, self.error = list(batch.lead), error

    def __call__(self, latent_BCLHW: Tensor, t_BL: Tensor, **given: Tensor | None) -> Tensor:
        link = self.links.pop(0)
        assert given["actions_BAX"] is link.actions_BAX and given["frame_latent_BCLHW"] is link.frame_latent_BCLHW
        return (latent_BCLHW - link.latent_BCLHW - self.error) / t_BL[:, 1].reshape(-1, 1, 1, 1, 1)


def test_each_link_of_a_lead_ends_where_the_next_clip_begins(cache: LatentCache) -> None:
    batch = longest(cache)
    for link, after in zip(batch.lead, [*batch.lead[1:], batch], strict=True):
        real = link.valid_BL[:, 0]
        assert real.any() and bool(link.valid_BL[real].all())
        torch.testing.assert_close(link.latent_BCLHW[real, :, -1], after.latent_BCLHW[real, :, 0], atol=0, rtol=0)
    assert not batch.valid_BL[:, 0].any()  # the known frame of what is learned has no loss


@pytest.mark.parametrize("memory", [True, False])
def test_a_past_that_was_imagined_right_is_the_recorded_one(cache: LatentCache, memory: bool) -> None:
    batch = longest(cache) if memory else longest(cache, memory=None)
    given = with_imagined_past(Knows(batch), batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(given.latent_BCLHW, batch.latent_BCLHW, atol=1e-5, rtol=0)
    if not memory:
        assert given.history_BCMHW is None
        return
    assert given.history_BCMHW is not None and batch.history_BCMHW is not None
    torch.testing.assert_close(given.history_BCMHW, batch.history_BCMHW, atol=1e-5, rtol=0)


def test_errors_of_the_past_reach_what_is_known_and_never_the_target(cache: LatentCache) -> None:
    batch = longest(cache)
    given = with_imagined_past(Knows(batch, error=0.5), batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(given.latent_BCLHW[:, :, 1:], batch.latent_BCLHW[:, :, 1:], atol=0, rtol=0)
    assert torch.equal(given.valid_BL, batch.valid_BL)
    assert given.history_BCMHW is not None and batch.history_BCMHW is not None
    wrong_BN = torch.cat(
        [
            (given.history_BCMHW - batch.history_BCMHW).abs().amax(dim=(1, 3, 4)),
            (given.latent_BCLHW - batch.latent_BCLHW).abs().amax(dim=(1, 3, 4))[:, :1],
        ],
        dim=1,
    )
    groups = batch.lead[0].latent_BCLHW.shape[2] - 1
    links_B = sum(link.valid_BL[:, 0].long() for link in batch.lead)
    assert isinstance(links_B, Tensor) and len(set(links_B.tolist())) > 1  # some episodes are too young for all links
    for row, links in enumerate(links_B.tolist()):
        imagined = min(links * groups, wrong_BN.shape[1])
        expected = torch.zeros(wrong_BN.shape[1])
        expected[wrong_BN.shape[1] - imagined :] = 0.5
        torch.testing.assert_close(wrong_BN[row], expected, atol=1e-4, rtol=0)


def test_leads_are_as_frequent_as_asked_and_begin_when_asked(cache: LatentCache) -> None:
    source = clips(cache, ClipOptions(imagined_share=0.5, imagined_chunks=2))
    source.leads_after = 100
    lengths = [len(source.batch(number).lead) for number in range(300)]
    assert not any(lengths[:100]) and set(lengths) == {0, 1, 2}
    assert 70 < sum(n > 0 for n in lengths) < 130
    plain = clips(cache, ClipOptions())
    for number in (0, 150, 299):  # what is learned does not depend on them
        assert torch.equal(source.batch(number).latent_BCLHW, plain.batch(number).latent_BCLHW)


def test_processes_that_share_a_network_pass_it_equally_often(cache: LatentCache) -> None:
    base = preset("tiny")
    world = dataclasses.replace(base, codec=NARROW)
    source = CachedClips([cache], world, ClipOptions(imagined_share=0.5), batch_size=2, together=2)
    passes = [[link.latent_BCLHW.shape for link in source.batch(number).lead] for number in range(60)]
    assert passes[0::2] == passes[1::2] and len({len(links) for links in passes}) == 4


def test_a_clip_without_a_lead_stays_as_it_is(cache: LatentCache) -> None:
    batch = clips(cache, ClipOptions()).batch(0)
    given = with_imagined_past(Knows(batch), batch, torch.Generator())
    assert given.history_BCMHW is not None and batch.history_BCMHW is not None
    assert torch.equal(given.latent_BCLHW, batch.latent_BCLHW) and torch.equal(given.history_BCMHW, batch.history_BCMHW)


def test_a_known_frame_that_stands_alone_does_so_on_the_way_too_and_its_group_is_the_newest_past(
    cache: LatentCache,
) -> None:
    batch = longest(cache)
    network, seen = Knows(batch), []

    def halved(row_BCNHW: Tensor) -> tuple[Tensor, Tensor]:
        return row_BCNHW[:, :, -1:] / 2, row_BCNHW[:, :, 1:]

    def watched(latent_BCLHW: Tensor, t_BL: Tensor, **given: Tensor | None) -> Tensor:
        seen.append((latent_BCLHW[:, :, :1], given["history_BCMHW"]))
        return network(latent_BCLHW, t_BL, **given)

    given = with_imagined_past(watched, batch, torch.Generator().manual_seed(0), halved)
    seen.append((given.latent_BCLHW[:, :, :1], given.history_BCMHW))
    for (known, history), clip in zip(seen, [*batch.lead, batch], strict=True):
        assert history is not None and clip.history_BCMHW is not None
        recorded = torch.cat([clip.history_BCMHW, clip.latent_BCLHW[:, :, :1]], dim=2)
        torch.testing.assert_close(known, recorded[:, :, -1:] / 2, atol=1e-5, rtol=0)
        torch.testing.assert_close(history, recorded[:, :, 1:], atol=1e-5, rtol=0)
    assert torch.equal(given.latent_BCLHW[:, :, 1:], batch.latent_BCLHW[:, :, 1:])


def test_leads_need_latents_that_were_encoded_group_by_group(cache: LatentCache) -> None:
    whole = copy.copy(cache)
    whole.groupwise = False
    with pytest.raises(TrainingError, match="imagined_share needs a codec"):
        clips(whole)
    with pytest.raises(TrainingError, match="imagined_chunks must be at least 1"):
        ClipOptions(imagined_chunks=0)
