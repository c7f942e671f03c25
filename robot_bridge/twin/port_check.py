"""Who holds a TCP port, so that "address in use" can name the culprit."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path

_LISTEN = "0A"
_ANY = "00000000"


def busy_ports(addresses: Iterable[tuple[str, int]]) -> list[str]:
    """One phrase for each process that listens on some of these (host, port); empty when all are free.

    Raises:
        OSError: a host is not an address of this machine.
    """
    taken: dict[str, list[str]] = {}
    for host, port in addresses:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise OSError(error.errno, f"cannot use address {host}: {error.strerror}") from error
                culprit = holder(host, port) or "a process of another user"
                taken.setdefault(culprit, []).append(f"{host}:{port}")
    return [f"{', '.join(places)} by {culprit}" for culprit, places in taken.items()]


def holder(host: str, port: int) -> str | None:
    """The process that listens on a port, as "process PID (command line)"; None when it cannot be seen."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(host, port)}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if any(_open_file(link) in sockets for link in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {process.name} ({command})"
        except OSError:
            continue  # ended meanwhile, or belongs to another user
    return None


def _open_file(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""  # closed since the folder was listed


def _listening_inodes(host: str, port: int) -> list[str]:
    wanted = {f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}", f"{_ANY}:{port:04X}"}
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return [row[9] for row in rows if row[1] in wanted and row[3] == _LISTEN]
