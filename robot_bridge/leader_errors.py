"""What can go wrong with the leader arm, one class for each thing a person has to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class LeaderError(RuntimeError):
    """Base of all errors of the leader arm. There is no fall-back to a simulated leader."""


class PortMissing(LeaderError):
    """No such serial port; the message lists the ports that exist."""

    def __init__(self, port: str, candidates: Sequence[str]) -> None:
        found = ", ".join(candidates) if candidates else "none; is the USB adapter plugged in?"
        super().__init__(
            f"no leader port {port}; serial ports on this machine: {found}. Set leader.port in the cell file "
            "(for the twin: start the lab first)"
        )


class PortRefused(LeaderError):
    """The port exists but cannot be opened: another process has it, or permissions."""


class LeaderGone(LeaderError):
    """The port disappeared while in use; ``connect`` again when it is back."""


class ServoBusSilent(LeaderError):
    """No servo answers at any baud rate."""

    def __init__(self, port: str, ids: Sequence[int], baud_rates: Sequence[int]) -> None:
        super().__init__(
            f"no servo answers on {port} (asked ids {_list(ids)} at {_list(baud_rates)} baud); check the servos' 5 V "
            "supply, the cable at the adapter, and that this is the leader's port"
        )


class ServoMissing(LeaderError):
    """Some servos answer, others do not."""

    def __init__(self, port: str, missing: Sequence[int], present: Sequence[int]) -> None:
        self.missing = tuple(missing)
        super().__init__(
            f"servo {_list(missing)} on {port} does not answer, {_list(present)} do; the servos are daisy-chained: "
            "check the cable into the first missing one, or correct leader.servo_ids in the cell file"
        )


class WrongServo(LeaderError):
    """A servo of another model sits on the bus: its position register would be misread."""


class ServoNotConfigured(LeaderError):
    """A servo needs an EEPROM write that was not allowed."""


class ServoReadFailed(LeaderError):
    """One reading failed (no or a broken reply, twice). Transient: call ``read`` again."""


def _list(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)
