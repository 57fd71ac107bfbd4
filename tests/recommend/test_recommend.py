"""`zoo recommend`: the whole way on small images, cut off, within limits, and on to training."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html import escape
from pathlib import Path

import pytest
from helpers import SHAPES, make_folder

from zoo.artifacts.runs import RunFolder
from zoo.data.splits import open_dataset
from zoo.errors import UsageError
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import probe_sources
from zoo.progress import Silent
from zoo.recommend.candidates import Limits, find_candidates
from zoo.recommend.profile import Profile, profile
from zoo.recommend.run import recommend
from zoo.recommend.similarity import SourceStatistics
from zoo.report.recommendation import recommendation_page

Zoo = Callable[..., subprocess.CompletedProcess[str]]


def _request(dataset: Path, **options: object) -> FinetuneRequest:
    common = {"data": str(dataset), "backbone": "auto", "device": "cpu", "threads": 1, "batch_size": 8, "epochs": 10}
    return FinetuneRequest(**common | options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def recommendation(dataset: Path, environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished one."""
    out = tmp_path_factory.mktemp("recommendation") / "shapes"
    recommend(_request(dataset), out, environment, Silent(), limits=Limits(), results=[])
    return out


@pytest.fixture(scope="session")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with every second image in a wrong class: all make mistakes enough to be told apart by counting."""
    root = make_folder(tmp_path_factory.mktemp("doubtful") / "shapes", train=50, test=2)
    for shape, other in zip(SHAPES, (*SHAPES[1:], SHAPES[0]), strict=True):
        for path in sorted((root / "train" / shape).glob("*[13579].*")):
            path.rename(root / "train" / other / f"{shape}-{path.name}")
    return root


@pytest.fixture(scope="session")
def raced(doubtful: Path, environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished one with a race."""
    out = tmp_path_factory.mktemp("raced") / "shapes"
    recommend(_request(doubtful), out, environment, Silent(), limits=Limits(), results=[])
    return out


def test_profile(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    request = _request(dataset, backbone="tiny/glyphnet", strategy="probe", epochs=None)
    data = open_dataset(str(dataset), cache=tmp_path, progress=Silent())
    sources = probe_sources(request, data, RunFolder(tmp_path / "none"), environment, Silent())
    embeddings = sources.features("train", taps=0)[0][:, 0].double().numpy()
    found = profile(sources, SourceStatistics.of(embeddings))
    assert found.images == len(data.of("train"))
    assert found.distance == pytest.approx(0, abs=1e-9)
    assert len(found.tap_accuracies) == len(found.concatenated) == 4
    assert found.tap_accuracies[-1] == found.concatenated[0]
    assert found.accuracy > 0.8
    assert 0 <= found.twin_accuracy <= 1
    assert found.own_accuracy <= found.accuracy
    assert found.source is not None
    assert 1 / 198 < found.source.confidence <= 1
    assert Profile.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_it_says_what_to_train_and_why(recommendation: Path) -> None:
    found = json.loads((recommendation / "recommendation.json").read_text())
    assert found["backbone"] == "tiny/glyphnet@glyphs_v1"
    assert found["request"]["backbone"] == found["backbone"]
    assert found["request"]["strategy"] == found["strategy"] != "auto"
    assert [row["backbone"] for row in found["ranking"]] == ["tiny/glyphnet@glyphs_v1", "tiny/denoise@leaves_v1"]
    assert found["ranking"][0]["score"] > found["ranking"][1]["score"]
    assert {heat["strategy"] for heat in found["race"]} == {"probe"}
    assert "torchvision/resnet18@imagenet1k_v1" in found["elsewhere"]
    assert found["quadrant"]["size"] == "small"
    assert any("12 images per class" in sentence for sentence in found["why"])
    assert any("validation images tell less about training" in sentence for sentence in found["why"])
    assert any(each.startswith(f"So: {found['strategy']} of {found['backbone']}") for each in found["why"])
    assert found["training_seconds"] > 0
    assert found["why"][-1].startswith("Its training takes ")
    assert not (recommendation / "race").exists()


def test_what_is_in_doubt_races(raced: Path) -> None:
    found = json.loads((raced / "recommendation.json").read_text())
    assert {(heat["strategy"] == "probe", heat["share"]) for heat in found["race"]} == {(True, 1.0), (False, 0.3)}
    assert len({heat["backbone"] for heat in found["race"] if heat["share"] == 0.3}) == 2
    assert any("after 30 % of its steps" in sentence for sentence in found["why"])
    assert not (raced / "race").exists()


def test_its_page(recommendation: Path, zoo: Zoo) -> None:
    found = json.loads((recommendation / "recommendation.json").read_text())
    page = recommendation / "page.html"
    recommendation_page(found, page)
    text = page.read_text()
    assert "<svg" in text
    for words in (found["backbone"], "tiny/denoise@leaves_v1", "torchvision/swin_t@imagenet1k_v1"):
        assert words in text
    assert all(escape(sentence) in text for sentence in found["why"])
    page.write_text("mine")
    with pytest.raises(UsageError, match="not a report"):
        recommendation_page(found, page)


def test_it_feeds_finetune(recommendation: Path, zoo: Zoo, tmp_path: Path) -> None:
    file = recommendation / "recommendation.json"
    dry = zoo("finetune", "--from", file, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    asked = json.loads(file.read_text())
    assert dry.stdout.startswith(f"{asked['strategy']}: ")
    done = zoo("finetune", "--from", file, "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["strategy"], result["backbone"]) == (asked["strategy"], "tiny/glyphnet")
    refused = zoo("finetune", "--from", file, "--epochs", "3")
    assert "--from" in refused.stderr
    assert "leave out --epochs" in refused.stderr
    (tmp_path / "other.json").write_text("{}")
    assert "not a recommendation" in zoo("finetune", "--from", tmp_path / "other.json").stderr


def test_auto_does_both(dataset: Path, zoo: Zoo, tmp_path: Path) -> None:
    words = ("finetune", dataset, "--backbone", "auto", "--epochs", "4", "--threads", "1", "--batch-size", "8")
    done = zoo(*words, "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["backbone"] == "tiny/glyphnet"
    assert (tmp_path / "run-recommendation" / "recommendation.json").is_file()
    slow = zoo(*words, "--max-latency", "0.000001", "--out", tmp_path / "slow")
    assert "no backbone at hand within --max-latency 1e-06" in slow.stderr
    refused = zoo(*words, "--weights", "glyphs_v1")
    assert "--weights glyphs_v1: auto compares pretrained sets that have a tag; leave it out" in refused.stderr


def test_auto_may_choose_the_strategy_alone(dataset: Path, zoo: Zoo, tmp_path: Path) -> None:
    words = ("finetune", dataset, "--backbone", "tiny/glyphnet", "--strategy", "auto", "--threads", "1")
    done = zoo(*words, "--shots", "3", "--lr", "0.001", "--drop-stages", "1", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "So: probe of tiny/glyphnet@glyphs_v1" in done.stderr
    assert "a probe takes no steps: --lr meant nothing to it" in done.stderr
    found = json.loads((tmp_path / "run-recommendation" / "recommendation.json").read_text())
    assert len(found["ranking"]) == 1
    assert found["ranking"][0]["source"] is None  # a classifier of whole embeddings
    assert "name a backbone and a strategy for it instead of auto" in zoo(*words, "--dry-run").stderr
    refused = zoo(*words, "--weights", tmp_path / "own.pth")
    assert "say tiny/glyphnet@TAG instead" in refused.stderr


def test_only_backbones_of_which_something_is_left(environment: Environment) -> None:
    here, _ = find_candidates(environment.catalogue, environment.cache, (), drop_stages=1)
    assert [each.entry.id for each in here] == ["tiny/glyphnet"]


def test_the_same_call_gives_what_is_there_and_another_one_is_refused(
    recommendation: Path, dataset: Path, environment: Environment, zoo: Zoo
) -> None:
    before = (recommendation / "recommendation.json").read_bytes()
    again = recommend(_request(dataset), recommendation, environment, Silent(), limits=Limits(), results=[])
    assert again == json.loads(before)
    other = zoo("recommend", dataset, "--out", recommendation, "--seed", "7")
    assert "where something else was asked" in other.stderr
    assert (recommendation / "recommendation.json").read_bytes() == before


def test_a_strategy_of_ones_own(dataset: Path, zoo: Zoo, tmp_path: Path) -> None:
    done = zoo("recommend", dataset, "--strategy", "probe", "--threads", "1", "--out", tmp_path / "probe", "--json")
    found = json.loads(done.stdout)
    assert found["strategy"] == "probe"
    assert {heat["strategy"] for heat in found["race"]} == {"probe"}
    words = ("--strategy", "gradual", "--epochs", "4", "--threads", "1", "--batch-size", "8", "--out", tmp_path / "run")
    done = zoo("finetune", dataset, "--backbone", "auto", *words, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["strategy"] == "gradual"


def test_within_limits(dataset: Path, zoo: Zoo, tmp_path: Path) -> None:
    words = ("recommend", dataset, "--epochs", "2", "--threads", "1", "--json")
    done = zoo(*words, "--max-size", "1", "--out", tmp_path / "small")
    assert [row["backbone"] for row in json.loads(done.stdout)["ranking"]] == ["tiny/denoise@leaves_v1"]
    done = zoo(*words, "--max-size", "0.001", "--out", tmp_path / "none")
    assert done.returncode == 2
    assert "no backbone at hand within --max-size 0.001" in json.loads(done.stdout)["error"]


def test_only_those_named(dataset: Path, zoo: Zoo, tmp_path: Path) -> None:
    words = ("recommend", dataset, "--threads", "1", "--strategy", "probe", "--json", "--backbone")
    done = zoo(*words, "denoise", "--out", tmp_path / "named")
    found = json.loads(done.stdout)
    assert [row["backbone"] for row in found["ranking"]] == ["tiny/denoise@leaves_v1"]
    assert found["elsewhere"] == []
    assert zoo(*words, "denoise", "--out", tmp_path / "named").returncode == 0  # the very same again
    unknown = zoo(*words, "glyphnit", "--out", tmp_path / "unknown")
    assert "unknown backbone: 'glyphnit'; did you mean" in json.loads(unknown.stdout)["error"]


def test_within_a_time(doubtful: Path, zoo: Zoo, tmp_path: Path) -> None:
    words = ("recommend", doubtful, "--epochs", "10", "--threads", "1", "--json")
    done = zoo(*words, "--max-time", "60", "--out", tmp_path / "enough")
    enough = json.loads(done.stdout)
    assert {heat["strategy"] for heat in enough["race"]} > {"probe"}
    assert all(row["image_seconds"] > 0 for row in enough["ranking"])
    done = zoo(*words, "--max-time", "0.0001", "--out", tmp_path / "none")
    hurried = json.loads(done.stdout)
    assert hurried["strategy"] == "probe"
    assert {heat["strategy"] for heat in hurried["race"]} == {"probe"}
    refused = zoo(*words, "--max-time", "0.0001", "--strategy", "full", "--out", tmp_path / "full")
    assert "can be trained with full within --max-time 0.0001; raise it" in json.loads(refused.stdout)["error"]


def test_nothing_at_hand(dataset: Path, tmp_path: Path, zoo_process: Zoo) -> None:
    done = zoo_process("recommend", dataset, "--out", tmp_path / "none", ZOO_PLUGINS="torchvision,heads")
    assert "no pretrained weights at hand: 23 installed backbones" in done.stderr


@pytest.mark.slow
def test_killed_it_goes_on_where_it_was(
    raced: Path, doubtful: Path, cache: Path, environment: Environment, tmp_path: Path
) -> None:
    out = tmp_path / "cut"
    program = (
        "import sys\nfrom pathlib import Path\nfrom zoo.catalogue import Catalogue\n"
        "from zoo.finetune.request import FinetuneRequest\nfrom zoo.finetune.resolve import Environment\n"
        "from zoo.progress import Silent\nfrom zoo.recommend.candidates import Limits\n"
        "from zoo.recommend.run import recommend\n"
        "asked = FinetuneRequest(data=sys.argv[1], backbone='auto', device='cpu', threads=1, batch_size=8, epochs=10)\n"
        "around = Environment(catalogue=Catalogue.installed(), cache=Path(sys.argv[2]))\n"
        "recommend(asked, Path(sys.argv[3]), around, Silent(), limits=Limits(), results=[])\n"
    )
    for decisions in (1, 3, 5):  # a profile, the probes, the race
        process = subprocess.Popen([sys.executable, "-c", program, str(doubtful), str(cache), str(out)])
        limit = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < limit:
            if (out / "decisions.json").exists() and len(RunFolder(out).read_decisions()) >= decisions:
                break
            time.sleep(0.01)
        assert process.poll() is None, "finished before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = recommend(_request(doubtful), out, environment, Silent(), limits=Limits(), results=[])
    whole = json.loads((raced / "recommendation.json").read_text())
    for record in (found, whole):
        del record["seconds"]
        for row in (*record["ranking"], *record["race"]):
            del row["seconds"]
    assert found["expected"] == whole["expected"]
    assert found["race"] == whole["race"]
    assert found["request"] == whole["request"]
