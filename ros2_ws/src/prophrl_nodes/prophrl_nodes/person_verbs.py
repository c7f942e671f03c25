"""The verbs with which a person at the table answers a node that runs trials: ``placed``, ``success``, ``failure``."""

from __future__ import annotations

from prophrl_nodes.node_base import ProphNode, Refused
from prophrl_nodes.scene_host import PersonSceneHost, SceneHost


def add_person_verbs(node: ProphNode, scene: SceneHost) -> None:
    """Give a node these verbs where a person judges; where the twin does, nothing is added."""
    if not isinstance(scene, PersonSceneHost):
        return
    person = scene

    async def placed() -> str:
        if not person.request:
            raise Refused("no placement is being asked for; see /diagnostics")
        person.confirm_placed()
        return "thank you"

    async def success() -> str:
        person.judge(True, "judged by the operator")
        return "noted: success"

    async def failure() -> str:
        person.judge(False, "judged by the operator")
        return "noted: failure"

    for verb in (placed, success, failure):
        node.verb(verb.__name__, verb)
