"""What can go wrong between a policy node and a policy server."""

from __future__ import annotations


class ServingError(RuntimeError):
    """No usable answer from a policy server. Its subclasses say whether asking again can help."""


class ServerUnavailable(ServingError):
    """No server, a broken connection, or no answer in time: asking again may help."""


class ServerMismatch(ServingError):
    """The server serves another policy than was agreed on, or speaks another protocol: a person must look."""


class Unauthorised(ServingError):
    """The server does not accept our token."""


class RequestRefused(ServingError):
    """The server cannot answer this request; ``code`` is one of ``protocol.ERROR_CODES``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ProtocolError(ServingError):
    """A message that does not follow the protocol; the text says which field and what was expected."""


class SetupError(ServingError, ValueError):
    """A device, precision or token that cannot be used here; the message says what can."""
