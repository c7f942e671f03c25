"""Messages between a policy node and a policy server, version 1. Binary WebSocket frames, see ``wire``.

    server -> client   hello   once after connecting: which policy this is, and everything it promises
    client -> server   infer   one observation, its seed, the checkpoint it is meant for, committed actions or nil
    server -> client   chunk   the actions and the time each stage took
    server -> client   error   why there is no chunk; the connection stays open unless the message was not understood

One question at a time on each connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.interface import ObservationLike, PolicySpec
from prophrl_models.serving import wire
from prophrl_models.serving.engine import PolicyAnswer, PolicyRequest
from prophrl_models.serving.errors import ProtocolError

if TYPE_CHECKING:
    from prophrl_models.policies.chunking import Committed

VERSION = 1
ERROR_CODES = ("malformed", "wrong_checkpoint", "unknown_instruction", "bad_observation", "busy", "internal")


@dataclass(frozen=True)
class Hello:
    """What a server serves.

    Attributes:
        policy_id: name of the checkpoint's folder.
        checkpoint_id: SHA-256 over the checkpoint's files.
        kind: kind of policy, see ``policies.load.KINDS``.
        spec: convention, rate, sizes, scalings, instructions.
        sync: how observations were formed in training.
        device, precision: where and how it computes.
        warm_p50_s: median time of an answer after warm-up, network excluded.
    """

    policy_id: str
    checkpoint_id: str
    kind: str
    spec: PolicySpec
    sync: SyncSpec
    device: str
    precision: str
    warm_p50_s: float

    def to_message(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in ("policy_id", "checkpoint_id", "kind", "device", "precision")}
        values |= {"spec": self.spec.to_json(), "sync": self.sync.to_json(), "warm_p50_s": self.warm_p50_s}
        return {"type": "hello", "version": VERSION, **values}

    @staticmethod
    def from_message(message: Mapping[str, Any]) -> Hello:
        """Inverse of ``to_message``.

        Raises:
            ProtocolError: another version, or a field is missing, unknown or unusable.
        """
        if message.get("type") == "hello" and message.get("version") != VERSION:
            raise ProtocolError(
                f"the server speaks protocol version {message.get('version')!r}, this client {VERSION}; install the "
                "same release on both machines"
            )
        texts = ("policy_id", "checkpoint_id", "kind", "device", "precision")
        raw = wire.fields(message, "hello", {"version", "spec", "sync", "warm_p50_s", *texts})
        policy_id, checkpoint_id, kind, device, precision = (wire.text(raw[name], name) for name in texts)
        try:
            spec, sync = PolicySpec.from_json(raw["spec"]), SyncSpec.from_json(raw["sync"])
            warm_p50_s = float(raw["warm_p50_s"])
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"the server's specification cannot be read: {error!r}") from error
        return Hello(policy_id, checkpoint_id, kind, spec, sync, device, precision, warm_p50_s)


@dataclass(frozen=True)
class ReceivedObservation:
    """An observation that came over the wire; see ``policies.interface.ObservationLike``."""

    image_HW3: NDArray[np.uint8]
    state_7: NDArray[np.float32]
    instruction: str


def request_to_message(request: PolicyRequest, number: int, checkpoint_id: str) -> dict[str, Any]:
    """The message ``infer``; ``number`` comes back with the answer."""
    observation: ObservationLike = request.observation
    committed = None
    if request.committed is not None:
        actions = np.asarray(request.committed.actions_MD, dtype=np.float32)
        committed = {"actions": actions, "frozen": int(request.committed.frozen)}
    return {
        "type": "infer",
        "number": number,
        "checkpoint_id": checkpoint_id,
        "image": np.asarray(observation.image_HW3),
        "state": np.asarray(observation.state_7, dtype=np.float32),
        "instruction": observation.instruction,
        "seed": request.seed,
        "committed": committed,
    }


def request_from_message(message: Mapping[str, Any]) -> tuple[PolicyRequest, int, str]:
    """The request, its number and the checkpoint it is meant for.

    Raises:
        ProtocolError: the message does not follow the protocol.
        ValueError: committed actions that are empty or not finite.
    """
    names = {"number", "checkpoint_id", "image", "state", "instruction", "seed", "committed"}
    raw = wire.fields(message, "infer", names)
    observation = ReceivedObservation(
        wire.array(raw["image"], "image", "uint8", 3).copy(),  # torch wants memory it may write to
        wire.array(raw["state"], "state", "float32", 1).copy(),
        wire.text(raw["instruction"], "instruction"),
    )
    request = PolicyRequest(observation, wire.integer(raw["seed"], "seed"), _committed(raw["committed"]))
    return request, wire.integer(raw["number"], "number"), wire.text(raw["checkpoint_id"], "checkpoint_id")


def answer_to_message(answer: PolicyAnswer, number: int) -> dict[str, Any]:
    """The message ``chunk``."""
    return {"type": "chunk", "number": number, "actions": answer.actions_CHD, "server_timing": answer.timing}


def answer_from_message(message: Mapping[str, Any]) -> tuple[PolicyAnswer, int]:
    """The answer and its number.

    Raises:
        ProtocolError: the message does not follow the protocol, or an action is not finite.
    """
    raw = wire.fields(message, "chunk", {"number", "actions", "server_timing"})
    actions = wire.array(raw["actions"], "actions", "float32", 2).copy()
    if not np.isfinite(actions).all():
        raise ProtocolError("the server sent actions that are not finite; its checkpoint or GPU is broken")
    timing = raw["server_timing"]
    if not isinstance(timing, dict) or not all(isinstance(v, float) for v in timing.values()):
        raise ProtocolError("server_timing must map names to milliseconds")
    return PolicyAnswer(actions, {str(name): value for name, value in timing.items()}), wire.integer(
        raw["number"], "number"
    )


def error_message(code: str, why: str, number: int | None = None) -> dict[str, Any]:
    """The message ``error``; ``number`` is None when the question could not be read."""
    assert code in ERROR_CODES, code
    return {"type": "error", "code": code, "message": why[:2000], "number": number}


def error_from_message(message: Mapping[str, Any]) -> tuple[str, str]:
    """(code, text) of an error message.

    Raises:
        ProtocolError: the message does not follow the protocol.
    """
    raw = wire.fields(message, "error", {"code", "message", "number"})
    return wire.text(raw["code"], "code"), wire.text(raw["message"], "message", 2000)


def _committed(raw: Any) -> Committed | None:
    if raw is None:
        return None
    if not isinstance(raw, dict) or set(raw) != {"actions", "frozen"}:
        raise ProtocolError("committed must be nil or a map with actions and frozen")
    actions = wire.array(raw["actions"], "committed actions", "float32", 2).copy()
    frozen = wire.integer(raw["frozen"], "frozen rows of committed", high=len(actions))
    from prophrl_models.policies.chunking import Committed

    return Committed(actions, frozen)
