"""The person's verbs: offered only where a person judges, and refused when nothing is being asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from prophrl_nodes.node_base import ProphNode, Refused
from prophrl_nodes.person_verbs import add_person_verbs
from prophrl_nodes.scene_host import PersonSceneHost, SceneHost

Verb = Callable[[], Awaitable[str]]


class Verbs:
    """Collects what a node would offer as services."""

    def __init__(self) -> None:
        self.named: dict[str, Verb] = {}

    def verb(self, name: str, action: Verb) -> None:
        self.named[name] = action

    def say(self, name: str) -> str:
        async def said() -> str:
            return await self.named[name]()

        return asyncio.run(said())


def verbs_of(scene: SceneHost) -> Verbs:
    verbs = Verbs()
    add_person_verbs(cast(ProphNode, verbs), scene)
    return verbs


def test_a_cell_that_judges_by_itself_offers_none() -> None:
    assert verbs_of(cast(SceneHost, object())).named == {}


def test_placed_is_refused_while_no_placement_is_asked_for() -> None:
    with pytest.raises(Refused, match="no placement is being asked for"):
        verbs_of(PersonSceneHost()).say("placed")


def test_the_verdict_of_the_person_ends_the_wait_for_it() -> None:
    person = PersonSceneHost(timeout_s=10.0)
    verbs = verbs_of(person)
    heard: list[bool] = []
    waiting = threading.Thread(target=lambda: heard.append(person.verdict().success))
    waiting.start()
    assert verbs.say("success") == "noted: success"
    waiting.join(timeout=10.0)
    assert heard == [True]
    assert verbs.say("failure") == "noted: failure"
    assert person.verdict().success is False
