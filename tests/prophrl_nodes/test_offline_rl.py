"""The offline reinforcement node: a goal that cannot be run says why, and a run in progress can be cancelled."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from prophrl_interfaces.action import ReinforceOffline
from prophrl_nodes.nodes.offline_rl import OfflineRlNode
from rclpy.action import GoalResponse

NODE = "prophrl_nodes.nodes.offline_rl"
LIVENESS_S = 60.0


def send(graph: Any, **fields: Any) -> tuple[Any, list[Any]]:
    """(handle of an accepted goal, its feedback so far)"""
    client = graph.action_client(ReinforceOffline, "reinforce_offline")
    graph.until(client.server_is_ready, "the action server", LIVENESS_S)
    feedback: list[Any] = []
    sent = client.send_goal_async(
        ReinforceOffline.Goal(**fields), feedback_callback=lambda message: feedback.append(message.feedback)
    )
    graph.until(sent.done, "the goal to be answered", LIVENESS_S)
    handle = sent.result()
    assert handle.accepted
    return handle, feedback


def ended(graph: Any, handle: Any) -> Any:
    result = handle.get_result_async()
    graph.until(result.done, "the result", LIVENESS_S)
    return result.result()


def test_a_goal_without_bags_is_answered_with_what_is_missing(graph: Any, tmp_path: Path) -> None:
    graph.start(NODE)
    handle, _ = send(graph, policy=str(tmp_path), output=str(tmp_path / "out"))
    result = ended(graph, handle).result
    assert not result.accepted and "no bags given" in result.message


def test_of_two_goals_at_once_only_one_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    node = object.__new__(OfflineRlNode)
    node._active, node._place = True, threading.Lock()
    monkeypatch.setattr(node, "get_logger", lambda: logging.getLogger("offline_rl"), raising=False)
    answers = [node._accept_goal(ReinforceOffline.Goal()) for _ in range(2)]  # before the first has begun to work
    assert answers == [GoalResponse.ACCEPT, GoalResponse.REJECT]
    node._place.release()
    node._active = False
    assert node._accept_goal(ReinforceOffline.Goal()) == GoalResponse.REJECT
    node._active = True
    assert node._accept_goal(ReinforceOffline.Goal()) == GoalResponse.ACCEPT


def test_a_stage_that_fails_is_reported_with_its_own_words(graph: Any, tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    (tmp_path / "policy").mkdir()
    graph.start(NODE)
    handle, feedback = send(
        graph, bags=str(tmp_path / "bags"), policy=str(tmp_path / "policy"), output=str(tmp_path / "out")
    )
    answer = ended(graph, handle)
    assert answer.status == GoalStatus.STATUS_SUCCEEDED and not answer.result.accepted
    assert "failed" in answer.result.message and "bag" in answer.result.message
    assert feedback and feedback[0].phase == "dataset"
    assert (tmp_path / "out" / "logs" / "dataset.log").is_file()


def test_a_cancelled_goal_ends_soon_and_can_be_given_again(graph: Any, tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    (tmp_path / "policy").mkdir()
    graph.start(NODE)
    goal = {"bags": str(tmp_path / "bags"), "policy": str(tmp_path / "policy"), "output": str(tmp_path / "out")}
    handle, _ = send(graph, **goal)
    cancelled = handle.cancel_goal_async()
    graph.until(cancelled.done, "the cancellation to be answered", LIVENESS_S)
    answer = ended(graph, handle)
    assert answer.status == GoalStatus.STATUS_CANCELED
    again, _ = send(graph, **goal)
    assert not ended(graph, again).result.accepted
