"""A file from an address to the disk: whole and verified, and from where an attempt before was cut off."""

from __future__ import annotations

import contextlib
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout

from zoo import __version__
from zoo.artifacts.files import sha256_file
from zoo.errors import ZooError
from zoo.progress import Progress

_AGENT = {"User-Agent": f"zoo/{__version__}"}
_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30
_ATTEMPTS = 4
"""A connection that breaks is opened again so many times, as long as something came through."""
_MEGABYTE = 1e6
PART = ".part"
LOCK = ".lock"


class DownloadError(ZooError):
    """A file cannot be had from its address, or is not the file that was expected."""


def download(url: str, path: Path, *, sha256: str, progress: Progress) -> None:
    """Fetches an http(s) or file URL as `path`, which appears when its digest begins with `sha256`, and not before.

    What came through stays beside it as `.part`, and the next attempt goes on from there. Of several processes one
    fetches and the others wait. Proxies are those of the environment (`HTTPS_PROXY`, `NO_PROXY`). Raises DownloadError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    with FileLock(path.with_name(path.name + LOCK)):
        if path.is_file():  # another process was faster
            return
        _fetch(url, part, progress)
        digest = sha256_file(part)
        if not digest.startswith(sha256):
            part.unlink()
            raise DownloadError(f"wrong file: {url} has sha256 {digest[:16]}..., expected {sha256[:16]}")
        part.replace(path)


def read_url(url: str) -> bytes:
    """What a small http(s) or file URL gives. Raises DownloadError."""
    try:
        with urlopen(Request(url, headers=_AGENT), timeout=_TIMEOUT_SECONDS) as answer:
            content: bytes = answer.read()
            return content
    except HTTPError as error:
        raise DownloadError(f"{url}: {error.code} {error.reason}") from None
    except (URLError, OSError, HTTPException, ValueError) as error:
        raise DownloadError(f"{url}: {getattr(error, 'reason', None) or error}") from None


def is_being_fetched(path: Path) -> bool:
    """Whether some process is fetching this file now."""
    try:
        with FileLock(path.with_name(path.name + LOCK), timeout=0):
            return False
    except Timeout:
        return True


def _fetch(url: str, part: Path, progress: Progress) -> None:
    for left in reversed(range(_ATTEMPTS)):
        before = part.stat().st_size if part.is_file() else 0
        try:
            return _go_on(url, part, progress)
        except HTTPError as error:
            raise DownloadError(f"{url}: {error.code} {error.reason}") from None
        except (URLError, OSError, HTTPException, ValueError) as error:
            here = part.stat().st_size if part.is_file() else 0
            if not left or here <= before:
                more = f"; {here / _MEGABYTE:.1f} MB are kept, the next attempt goes on from there" if here else ""
                raise DownloadError(f"{url}: {getattr(error, 'reason', None) or error}{more}") from None


def _go_on(url: str, part: Path, progress: Progress) -> None:
    """One attempt. Raises OSError where the connection ends too early."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {**_AGENT, **({"Range": f"bytes={have}-"} if have else {})}
    try:
        answer = urlopen(Request(url, headers=headers), timeout=_TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code != 416:  # there is nothing after what we have: all of it, or of another file
            raise
        error.close()
        if _length(error.headers.get("Content-Range", "").rpartition("/")[2]) == have:
            return
        part.unlink()
        return _go_on(url, part, progress)
    with answer, contextlib.ExitStack() as stack:
        resumed = have > 0 and answer.status == 206
        rest = _length(answer.headers.get("Content-Length"))
        have = have if resumed else 0
        total = None if rest is None else have + rest
        task = stack.enter_context(progress.task(f"fetching {part.stem} (MB)", (total or have) / _MEGABYTE))
        task.advance(have / _MEGABYTE)
        file: BinaryIO = stack.enter_context(part.open("ab" if resumed else "wb"))
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            have += len(chunk)
            task.advance(len(chunk) / _MEGABYTE)
    if total is not None and have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


def _length(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
