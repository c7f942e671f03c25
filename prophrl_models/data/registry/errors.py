"""What can be wrong with a published dataset on this disk."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RegistryError(ValueError):
    """A dataset, a layout or a value in it is not what the registry knows."""


class UnknownDatasetError(RegistryError):
    """A name that the registry does not list."""

    def __init__(self, name: str, valid: Iterable[str]) -> None:
        names = list(valid)
        near = get_close_matches(name, names, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown dataset {name!r}{meant} Valid names: {', '.join(names)}")


class MissingKeyError(RegistryError):
    """A key that the layout promises is not in the file."""

    def __init__(self, key: str, where: str, available: Iterable[str], action: str) -> None:
        listed = ", ".join(sorted(available)) or "none"
        super().__init__(f"{where}: no key {key!r}. Available keys: {listed}. {action}")


class CorruptFileError(RegistryError):
    """A file whose bytes are damaged; the message names the file and the offset."""
