"""What runs `zoo serve` elsewhere: the commands in a Dockerfile and in a unit are run, or read by systemd itself."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zoo import __version__
from zoo.deploy.docker import deploy_docker
from zoo.deploy.package import ZooPackage
from zoo.deploy.systemd import deploy_systemd
from zoo.errors import UsageError

Zoo = Callable[..., subprocess.CompletedProcess[str]]

REQUIREMENT = f"zoo=={__version__}"


@pytest.fixture
def odd(model: Path, tmp_path: Path) -> Path:
    """The exported model under a name with what shells, systemd and Docker read otherwise."""
    path = tmp_path / "50% off $HOME.onnx"
    path.symlink_to(model)
    return path


def _instructions(context: Path) -> dict[str, str]:
    """Each instruction of a Dockerfile, those of one kind joined by a line break."""
    text = re.sub(r"\\\n *", "", (context / "Dockerfile").read_text())
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            found[name] = f"{found[name]}\n{rest}" if name in found else rest
    return found


def test_the_image_serves_and_its_health_check_sees_it(odd: Path, zoo: Zoo, tmp_path: Path) -> None:
    done = zoo("deploy", "docker", odd, "-o", "image", "--zoo", REQUIREMENT, "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["next"] == (
        "docker build -t model-50-off-home image && docker run --rm --read-only -p 8000:8000 model-50-off-home"
    )
    context = tmp_path / "image"
    found = _instructions(context)
    assert found["FROM"] == f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    assert json.loads(found["RUN"]) == ["pip", "install", "--no-cache-dir", REQUIREMENT]
    assert found["COPY"] == "models/ /models/"
    assert found["ENV"] == "ORT_DISABLE_TELEMETRY=1"
    assert found["USER"] == "10001:10001"
    assert (context / ".dockerignore").read_text().split() == ["*", "!models", "!wheels"]

    entry = [word.replace("/models/", f"{context}/models/") for word in json.loads(found["ENTRYPOINT"])]
    entry[entry.index("8000")] = "0"
    check = json.loads(found["HEALTHCHECK"].partition("CMD ")[2])
    assert (entry[0], check[0]) == ("zoo", "python")
    server = subprocess.Popen(
        [sys.executable, "-m", "zoo_cli", *entry[1:], "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        code = check[2].replace("8000", url.rpartition(":")[2])
        assert subprocess.run([sys.executable, *check[1:2], code]).returncode == 0
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    assert subprocess.run([sys.executable, *check[1:2], code], stderr=subprocess.DEVNULL).returncode == 1


def test_a_wheel_is_brought_along(model: Path, tmp_path: Path) -> None:
    wheel = tmp_path / f"zoo-{__version__}-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    deploy_docker(model, tmp_path / "image", zoo=str(wheel))
    found = _instructions(tmp_path / "image")
    assert found["COPY"].splitlines()[0] == "wheels/ /wheels/"
    assert json.loads(found["RUN"])[-1] == f"/wheels/{wheel.name}"
    assert (tmp_path / "image" / "wheels" / wheel.name).read_bytes() == b"a wheel"
    deploy_systemd(model, tmp_path / "unit", zoo=str(wheel), host="127.0.0.1", port=8000)
    assert f"pip install {wheel.name}\n" in (tmp_path / "unit" / "zoo-shapes.service").read_text()
    assert (tmp_path / "unit" / wheel.name).read_bytes() == b"a wheel"


def test_where_zoo_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "zoo-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo\nVersion: 0\n")
    monkeypatch.syspath_prepend(info.parent)
    assert ZooPackage.of(None).requirement == REQUIREMENT
    # What an index has under the name of a Zoo that came from a folder may be anybody's.
    (info / "direct_url.json").write_text('{"url": "file:///src/zoo", "dir_info": {}}')
    with pytest.raises(UsageError, match=r"came from no package index: file:///src/zoo; build a wheel"):
        ZooPackage.of(None)
    wheel = "zoo-1-py3-none-any.whl"
    for wrong, words in (("zoo 1", "not what pip can install"), ("no.whl", "not the name"), (wheel, "no such wheel")):
        with pytest.raises(UsageError, match=words):
            ZooPackage.of(wrong)


def test_the_unit(odd: Path, zoo: Zoo, tmp_path: Path) -> None:
    done = zoo("deploy", "systemd", odd, "-o", "unit", "--zoo", REQUIREMENT, "--port", 9000)
    assert done.returncode == 0, done.stderr
    assert "next: on the server, the commands at the top of unit/zoo-model-50-off-home.service" in done.stdout
    unit = tmp_path / "unit" / "zoo-model-50-off-home.service"
    text = unit.read_text()
    assert f"/opt/zoo/bin/pip install {shlex.quote(REQUIREMENT)}\n" in text
    assert "install -D -m 644 -t /opt/zoo/models '50% off $HOME.onnx'\n" in text
    command = re.search("ExecStart=(.*)", text)
    assert command is not None
    assert command[1] == (
        '/opt/zoo/bin/zoo serve "/opt/zoo/models/50%% off $$HOME.onnx" --host 127.0.0.1 --port 9000 --device cpu'
    )
    assert zoo("deploy", "systemd", odd, "-o", "u", "--zoo", REQUIREMENT, "--port", 80).returncode == 2


def test_systemd_takes_the_unit_and_finds_it_safe(odd: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    deployment = deploy_systemd(odd, tmp_path / "unit", zoo=REQUIREMENT, host="::1", port=9000)
    [unit] = [file for file in deployment.files if file.suffix == ".service"]
    text = unit.read_text()
    unit.write_text(text.replace("/opt/zoo/bin/zoo", "/bin/true"))  # it looks whether the program is there
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", unit], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
