"""A company's own registry adds weights and addresses, in order, and is told where it is wrong."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from zoo_cli import settings

from zoo.catalogue.registry import packaged_registry

Zoo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that no other test fills."""
    return tmp_path_factory.mktemp("own_cache")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    settings.add_registries([])


def _company(folder: Path, **changes: Any) -> dict[str, Any]:
    """A registry that names one set of weights of the small backbone, a copy of its own."""
    entry = copy.deepcopy(next(one for one in packaged_registry()["backbones"] if one["id"] == "tiny/glyphnet"))
    weights = entry["weights"][0]
    source = Path(__file__).parents[2] / "plugins" / "zoo_tiny" / "weights" / "glyphs_v1.safetensors"
    target = folder / "acme.safetensors"
    target.write_bytes(source.read_bytes())
    weights.update({"tag": "acme_v1", "url": target.as_uri(), "license": "of Acme", **changes})
    return {"schema": 1, "plugins": [], "backbones": [entry]}


def _write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
    return path


def test_weights_of_a_company_are_trained_on(zoo: Zoo, dataset: Path, tmp_path: Path) -> None:
    registry = _write(tmp_path / "company.json", _company(tmp_path))
    listed = json.loads(zoo("--registry", registry, "list", "weights", "glyphnet", "--json").stdout)
    assert [(row["weights"], row["license"]) for row in listed] == [
        ("tiny/glyphnet@glyphs_v1", "Apache-2.0"),
        ("tiny/glyphnet@acme_v1", "of Acme"),
    ]
    words = (
        "finetune",
        dataset,
        "--backbone",
        "tiny/glyphnet@acme_v1",
        "--strategy",
        "probe",
        "--out",
        "run",
        "--json",
    )
    assert zoo(*words).returncode == 2  # nobody knows this tag without the registry
    done = zoo("--registry", registry, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "request.json").read_text())["model"]["weights_license"] == "of Acme"


def test_a_mirror_of_known_weights_and_nothing_else_under_their_tag(zoo: Zoo, tmp_path: Path) -> None:
    same = _write(tmp_path / "same.json", _company(tmp_path, tag="glyphs_v1"))
    listed = json.loads(zoo("--registry", same, "list", "weights", "glyphnet", "--json").stdout)
    assert [row["url"] for row in listed] == [(tmp_path / "acme.safetensors").as_uri()]
    other = _write(tmp_path / "other.json", _company(tmp_path, tag="glyphs_v1", sha256="0" * 64))
    refused = zoo("--registry", other, "list", "weights")
    assert refused.returncode == 1
    assert "registry names another file for tiny/glyphnet@glyphs_v1: sha256 0000000000000000, not" in refused.stderr


def test_config_file_environment_and_option_in_this_order(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        name: _write(tmp_path / f"{name}.json", _company(tmp_path, license=name))
        for name in ("config", "environment", "option")
    }
    (tmp_path / "config.toml").write_text(f'registry = ["{files["config"]}"]\nweights_mirror = "https://m"\n')

    def license_now(*options: object) -> str:
        rows = json.loads(zoo(*options, "list", "weights", "acme", "--json").stdout)
        return str(rows[0]["license"])

    monkeypatch.setenv("ZOO_CONFIG", str(tmp_path / "config.toml"))
    assert license_now() == "config"
    assert settings.weights_mirror() == "https://m"
    monkeypatch.setenv("ZOO_REGISTRY", str(files["environment"]))
    assert license_now() == "environment"
    assert license_now("--registry", files["option"]) == "option"
    (tmp_path / "config.toml").write_text("registries = []")
    wrong = zoo("list", "weights")
    assert (wrong.returncode, "unknown key 'registries'; known: registry, weights_mirror" in wrong.stderr) == (2, True)
    assert zoo("plugins", "list").returncode == 0  # which never fails


def _without_params(value: dict[str, Any]) -> None:
    del value["backbones"][0]["params"]


def _wrong_digest(value: dict[str, Any]) -> None:
    value["backbones"][0]["weights"][0]["sha256"] = "abc"


@pytest.mark.parametrize(
    ("spoil", "place", "reason"),
    [
        (_without_params, '"id": "tiny/glyphnet"', "$.backbones[0]: 'params' is a required property"),
        (_wrong_digest, '"sha256": "abc"', "$.backbones[0].weights[0].sha256: 'abc' does not match"),
    ],
)
def test_a_wrong_registry_is_told_with_its_line(
    spoil: Callable[[dict[str, Any]], None], place: str, reason: str, zoo: Zoo, tmp_path: Path
) -> None:
    value = _company(tmp_path)
    spoil(value)
    path = _write(tmp_path / "wrong.json", value)
    refused = zoo("--registry", path, "list", "backbones")
    assert refused.returncode == 1
    lines = path.read_text().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if place in line)
    number -= "id" in place  # an object begins at its brace
    assert f"registry does not fit its schema: {path}, line {number}, {reason}" in refused.stderr


def test_no_json_at_all(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{\n  "schema": 1,\n  oops\n}')
    refused = zoo("--registry", tmp_path / "broken.json", "list", "backbones")
    assert "line 3 column 3" in refused.stderr
    assert "cannot read the registry" in zoo("--registry", "nowhere.json", "list", "backbones").stderr


def test_an_address_is_read_once_a_day_and_its_copy_serves_without_network(
    zoo: Zoo, cache: Path, tmp_path: Path
) -> None:
    served = tmp_path / "served"
    served.mkdir()
    _write(served / "registry.json", _company(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(served))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/registry.json"
        listing = ("--registry", url, "list", "weights", "acme", "--json")
        assert len(json.loads(zoo(*listing).stdout)) == 1
        (served / "registry.json").unlink()
        assert zoo(*listing).stderr.count("GET") == 0  # not asked again
        assert "404" in zoo("--registry", f"{url}.other", "list", "weights").stderr
        server.shutdown()
    copies = list((cache / "registries").iterdir())
    assert len(copies) == 1
    yesterday = time.time() - 25 * 3600
    os.utime(copies[0], (yesterday, yesterday))
    offline = zoo(*listing)
    assert len(json.loads(offline.stdout)) == 1
    assert "registry as it was when it was last read" in offline.stderr
