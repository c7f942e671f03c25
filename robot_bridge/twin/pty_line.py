"""A serial port made of a pseudo-terminal: what a USB adapter is to its client, with a link as its stable name."""

from __future__ import annotations

import os
import pty
import select
import termios
import tty
from pathlib import Path

_BAUD_BY_FLAG = {
    getattr(termios, name): int(name[1:]) for name in dir(termios) if name[0] == "B" and name[1:].isdecimal()
}


class PtyLine:
    """The device's end of the line.

    The slave end is never held open here: clients are entitled to look for other users of their port (and some
    kill them). While no client is connected the kernel reports a hang-up instead of silence, so ``connected``
    must be asked before waiting for data.

    Args:
        link: path of the symbolic link through which clients open the port; replaced if it exists.
    """

    def __init__(self, link: str | Path) -> None:
        self.link = Path(link)
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        self.device = os.ttyname(slave)
        os.close(slave)
        os.set_blocking(self._master, False)
        self._poll = select.poll()
        self._poll.register(self._master, select.POLLIN)
        self.link.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.link.with_name(f".{self.link.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.device)
        temporary.replace(self.link)

    def fileno(self) -> int:
        return self._master

    @property
    def connected(self) -> bool:
        """Whether a client has the port open (or closed it with bytes left to read)."""
        events = self._poll.poll(0)
        return not events or bool(events[0][1] & select.POLLIN)

    @property
    def baud_rate(self) -> int:
        """The speed that the client set its port to, in bits per second."""
        return _BAUD_BY_FLAG.get(termios.tcgetattr(self._master)[4], 0)

    def read(self) -> bytes:
        """What the client wrote; empty when there is nothing or the client left."""
        try:
            return os.read(self._master, 4096)
        except BlockingIOError:
            return b""
        except OSError:
            return b""  # EIO: the client closed its end between poll and read

    def write(self, data: bytes) -> None:
        """Send to the client. Bytes that a client does not fetch are lost, as on a wire."""
        try:
            os.write(self._master, data)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Hang up, and remove the link unless somebody else has taken the name."""
        if self.link.is_symlink() and os.readlink(self.link) == self.device:
            self.link.unlink()
        os.close(self._master)
