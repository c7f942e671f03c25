"""The bearer token's file: one line, for its owner's eyes only."""

from __future__ import annotations

import stat
from pathlib import Path

from prophrl_models.serving.errors import SetupError


class TokenError(SetupError):
    """A token file that cannot be used; the message says how to make one."""


def read_token(path: str | Path) -> str:
    """The token in a file.

    Raises:
        TokenError: missing, empty, more than one word, or readable for others.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise TokenError(f"no token file {path}; make one with: (umask 077; openssl rand -hex 32 > {path})")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise TokenError(f"others on this machine may read {path}; run: chmod 600 {path}")
    token = path.read_text().strip()
    if not token or not token.isprintable() or not token.isascii() or " " in token:
        raise TokenError(f"{path} must hold one word of printable ASCII; make it with: openssl rand -hex 32 > {path}")
    return token
