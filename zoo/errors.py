"""The errors Zoo raises on purpose, each with the exit code the command line gives it.

Messages read: what is wrong: the value; what to do.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class ZooError(Exception):
    """Something the user can mend; one line on stderr."""

    exit_code = 1


class UsageError(ZooError):
    """The request makes no sense as given: unknown name, clashing options."""

    exit_code = 2


class DataError(ZooError):
    """The data set cannot be used: unreadable, empty, one class."""

    exit_code = 3


class WeightsError(ZooError):
    """Pretrained weights are missing, damaged, or belong to another architecture."""

    exit_code = 4


class PluginError(ZooError):
    """A plugin cannot be used."""

    exit_code = 5


class DeviceError(ZooError):
    """The requested device or execution provider is not there."""

    exit_code = 6


class RunError(ZooError):
    """A run folder is missing, incomplete, damaged, or not ours to write into."""

    exit_code = 7


class ModelError(ZooError):
    """An ONNX file cannot be used for what was asked."""

    exit_code = 8


class ParityError(ZooError):
    """An exported model does not give the answers of the model it was exported from."""

    exit_code = 9


class MissingExtraError(ZooError):
    """A part of Zoo that is not installed was asked for."""

    exit_code = 10


class ServerError(ZooError):
    """A server cannot be reached, or refuses what it is asked."""

    exit_code = 11

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP; None where there was no answer."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint such as `did you mean 'resnet18'?`, or the empty string when nothing is near."""
    near = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
