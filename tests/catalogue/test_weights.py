"""Weights come whole and verified through bad connections, and are forgotten when nothing needs them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from zoo.catalogue.weights import cached_weights, fetch_weights, remove_cached, weights_path
from zoo.errors import WeightsError
from zoo.finetune.resolve import Environment
from zoo.progress import Silent
from zoo.specs import WeightsSpec

Zoo = Callable[..., subprocess.CompletedProcess[str]]

CONTENT = bytes(range(256)) * 20_000  # 5 MB


class Server(ThreadingHTTPServer):
    """Serves CONTENT under every name, badly where asked to, and notes what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.cut_after: int | None = None
        self.ranges = True
        self.content = CONTENT

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append(self.headers.get("Range"))
        found = re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) if server.ranges else None
        start, content = int(found[1]) if found else 0, server.content
        if "missing" in self.path:
            self.send_error(404)
            return
        if found and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if server.cut_after is None else start + server.cut_after
        self.wfile.write(content[start:end])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that no other test fills."""
    return tmp_path_factory.mktemp("own_cache")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def spec(environment: Environment, server: Server) -> WeightsSpec:
    known = environment.catalogue.find_backbone("torchvision/squeezenet1_1")[0].spec.weights[0]
    return replace(known, url=f"{server.url}/models/net.safetensors", sha256=hashlib.sha256(CONTENT).hexdigest())


def _fetch(spec: WeightsSpec, cache: Path, mirror: str | None = None) -> Path:
    return fetch_weights(spec, cache, mirror=mirror, progress=Silent())


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server: Server, spec: WeightsSpec, tmp_path: Path) -> None:
    server.cut_after = 2_000_000
    path = _fetch(spec, tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=2000000-", "bytes=4000000-"]
    assert [file.name for file in path.parent.iterdir() if file.suffix != ".lock"] == ["net.safetensors"]


def test_what_came_through_is_kept_for_the_next_attempt(server: Server, spec: WeightsSpec, tmp_path: Path) -> None:
    server.cut_after = 1_000_000
    with pytest.raises(WeightsError, match=r"ended after 4000000 of 5120000 bytes; 4.0 MB are kept, the next attempt"):
        _fetch(spec, tmp_path)
    assert not weights_path(spec, tmp_path).exists()
    server.cut_after = None
    assert _fetch(spec, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=4000000-"


def test_a_server_that_knows_no_ranges_begins_anew(server: Server, spec: WeightsSpec, tmp_path: Path) -> None:
    server.ranges, server.cut_after = False, 3_000_000
    with pytest.raises(WeightsError, match="ended after 3000000 of 5120000 bytes"):
        _fetch(spec, tmp_path)
    server.cut_after = None
    assert _fetch(spec, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [CONTENT, CONTENT + b"more"], ids=["all of it", "more than all"])
def test_a_part_that_is_not_shorter_than_the_file(
    kept: bytes, server: Server, spec: WeightsSpec, tmp_path: Path
) -> None:
    part = Path(f"{weights_path(spec, tmp_path)}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(kept)
    assert _fetch(spec, tmp_path).read_bytes() == CONTENT


def test_a_wrong_file_is_refused_and_not_kept(server: Server, spec: WeightsSpec, tmp_path: Path) -> None:
    server.content = b"<html>Please log in</html>"
    with pytest.raises(WeightsError, match=r"cannot download weights 'imagenet1k_v1': wrong file: http.* has sha256"):
        _fetch(spec, tmp_path)
    assert [file.state for file in cached_weights(tmp_path, [])] == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{server}/missing.pth", r"/missing\.pth: 404 Not Found; try again"),
        ("http://127.0.0.1:1/net.pth", r"Connection refused.*put the file at .*give your own with --weights FILE"),
        ("ftp:/net.pth", "cannot download weights"),
        ("net.pth", "unknown url type"),
    ],
)
def test_an_address_that_gives_nothing(
    url: str, message: str, server: Server, spec: WeightsSpec, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=message):
        _fetch(replace(spec, url=url.format(server=server.url)), tmp_path)


def test_several_at_once_fetch_it_once(server: Server, spec: WeightsSpec, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: _fetch(spec, tmp_path), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(server.asked) == 1


def test_a_mirror_needs_no_more_than_the_file_names(spec: WeightsSpec, server: Server, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "net.safetensors").write_bytes(CONTENT)
    path = _fetch(spec, tmp_path, mirror.as_uri())
    assert path.read_bytes() == CONTENT
    (mirror / "net.safetensors").unlink()
    assert _fetch(spec, tmp_path, mirror.as_uri()) == path  # from now on offline
    assert server.asked == []


def test_a_proxy_of_the_environment_is_used(
    server: Server, spec: WeightsSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setattr(urllib.request, "_opener", None)  # which asked the environment when it was made
    assert _fetch(replace(spec, url="http://models.invalid/net.safetensors"), tmp_path).read_bytes() == CONTENT


def test_a_damaged_file_is_never_used(spec: WeightsSpec, tmp_path: Path) -> None:
    path = weights_path(spec, tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a download")
    with pytest.raises(WeightsError, match=rf"weights 'imagenet1k_v1' are damaged: {path} has sha256"):
        _fetch(spec, tmp_path)


def test_without_a_published_digest_the_first_file_is_kept_to(
    server: Server, spec: WeightsSpec, tmp_path: Path
) -> None:
    spec = replace(spec, sha256=None, file_name="acme--net.safetensors")
    path = _fetch(spec, tmp_path)
    assert path.name == "acme--net.safetensors"
    assert _fetch(spec, tmp_path) == path
    assert [file.state for file in cached_weights(tmp_path, [], verify=True)] == ["ok"]
    path.write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"weights 'imagenet1k_v1' are damaged"):
        _fetch(spec, tmp_path)
    [file] = cached_weights(tmp_path, [], verify=True)
    assert file.state == "damaged"
    remove_cached(file)
    assert not path.parent.exists()
    server.content = b"the publisher made it anew"
    assert _fetch(spec, tmp_path).read_bytes() == server.content


KILLED = """
import os, sys
from pathlib import Path
from zoo.catalogue.download import download

class Dies:
    def task(self, description, total):
        from contextlib import nullcontext
        return nullcontext(self)
    def advance(self, steps=1, note=None):
        self.done = getattr(self, "done", 0) + steps
        if self.done > 2:
            os.kill(os.getpid(), 9)

download(sys.argv[1], Path(sys.argv[2]), sha256="0", progress=Dies())
"""


def test_killed_in_the_middle_it_goes_on(server: Server, spec: WeightsSpec, tmp_path: Path) -> None:
    path = weights_path(spec, tmp_path)
    done = subprocess.run([sys.executable, "-c", KILLED, spec.url, str(path)])
    assert done.returncode == -9
    assert not path.exists()
    assert _fetch(spec, tmp_path).read_bytes() == CONTENT
    assert re.fullmatch(r"bytes=[12]\d{6}-", str(server.asked[-1]))


def test_the_cache_on_the_command_line(zoo: Zoo, environment: Environment, cache: Path, tmp_path: Path) -> None:
    known = environment.catalogue.find_backbone("torchvision/squeezenet1_1")[0].spec.weights[0]
    path = weights_path(known, cache)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    unknown = path.parent / "of_a_plugin_that_went_away.pth"
    unknown.write_bytes(b"x")
    Path(f"{path}.part").write_bytes(b"half")
    listed = {Path(row["path"]).name: row for row in json.loads(zoo("weights", "list", "--json").stdout)}
    assert {name: row["state"] for name, row in listed.items()} == {
        path.name: "unverified",
        unknown.name: "unknown",
        f"{path.name}.part": "unfinished",
    }
    assert listed[path.name]["weights"] == "torchvision/squeezenet1_1@imagenet1k_v1"
    verified = zoo("weights", "verify", "--json")
    assert verified.returncode == 4
    assert [row["state"] for row in json.loads(verified.stdout) if row["path"] == str(path)] == ["damaged"]
    assert zoo("finetune", "builtin:digits", "--backbone", "squeezenet1_1").returncode == 4
    pruned = json.loads(zoo("weights", "prune", "--yes", "--json").stdout)
    assert (len(pruned["removed"]), pruned["bytes"]) == (3, 12)
    assert not path.parent.exists()
    assert json.loads(zoo("weights", "list", "--json").stdout) == []
    assert zoo("weights", "verify").returncode == 0
    shipped = zoo("weights", "fetch", "tiny/glyphnet")
    assert shipped.stdout.endswith("glyphs_v1.safetensors\n")
    assert shipped.stderr == "tiny/glyphnet@glyphs_v1: 198 rendered letters (zoo_tiny._train), licence Apache-2.0\n"


def test_pruning_asks_first(zoo: Zoo, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache / "weights" / "00000000" / "old.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        refused = zoo("weights", "prune")
    assert refused.returncode != 0
    assert file.is_file()
    assert zoo("weights", "prune", "-y").stdout == "removed 1 files, 1B\n"
