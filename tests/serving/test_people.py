"""What people see: labels, a description, a page, numbers to watch."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from jsonschema import Draft202012Validator
from servers import Start

from zoo.predict import predict

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def images(dataset: Path) -> list[Path]:
    """Some test images as files."""
    return sorted((dataset / "test").rglob("*.jpg"))[:3]


def _form(*files: bytes) -> tuple[bytes, str]:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n%b\r\n' % file for file in files
    ]
    return b"".join(parts) + b"--x--\r\n", "multipart/form-data; boundary=x"


def test_labels_of_images_in_every_form(start: Start, model: Path, tensor_model: Path, images: list[Path]) -> None:
    server = start(model, tensor_model)
    expected = predict(model, images, device="cpu")
    contents = [image.read_bytes() for image in images]
    encoded = [base64.b64encode(content).decode() for content in contents]
    form, kind = _form(*contents)
    for body, content_type in (
        (form, kind),
        (json.dumps({"images": encoded}).encode(), "application/json"),
    ):
        status, answer = server.ask("POST", "/predict?top=2", body, Content_Type=content_type)
        assert status == 200, answer
        assert [each["label"] for each in answer["predictions"]] == [each["label"] for each in expected]
        assert [len(each["top"]) for each in answer["predictions"]] == [2, 2, 2]
        assert answer["predictions"][0]["probability"] == pytest.approx(expected[0]["probability"], abs=1e-6)
    status, answer = server.ask("POST", "/predict?model=shapes", contents[0], Content_Type="image/jpeg")
    assert (answer["model"], answer["predictions"][0]["label"]) == ("shapes", expected[0]["label"])
    description = server.get("/openapi.json")
    schema = {"$ref": "#/components/schemas/Predictions", "components": description["components"]}
    Draft202012Validator(schema).validate(answer)


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "message"),
    [
        ("/predict", b"", "image/png", 400, "0 images"),
        ("/predict", b"no image", "image/png", 400, "not an image: image 0"),
        ("/predict", b"{}", "application/json", 400, "BASE64"),
        ("/predict", b'{"image": "%%"}', "application/json", 400, "not base64"),
        ("/predict", b"--y", "multipart/form-data; boundary=x", 400, "form cannot be read"),
        ("/predict", b"--y", "multipart/form-data", 400, "form cannot be read"),
        ("/predict?top=0", b"x", "image/png", 400, "from 1 to 1000"),
        ("/predict?model=plain", b"x", "image/png", 400, "takes no images"),
        ("/predict?model=cats", b"x", "image/png", 404, "unknown model"),
    ],
)
def test_what_is_wrong_is_told(
    start: Start, model: Path, tensor_model: Path, path: str, body: bytes, kind: str, status: int, message: str
) -> None:
    server = start(model, tensor_model)
    code, answer = server.ask("POST", path, body, Content_Type=kind)
    assert (code, message in answer["error"]) == (status, True), answer


def test_numbers_to_watch(start: Start, model: Path, tensor_model: Path, images: list[Path]) -> None:
    server = start(model, tensor_model)
    for image in images:
        server.ask("POST", "/predict?model=shapes", image.read_bytes())
    server.ask("POST", "/v2/models/shapes/infer", b"{")
    with urlopen(Request(f"{server.url}/metrics")) as answer:
        lines = answer.read().decode().splitlines()
    assert 'zoo_requests_total{model="shapes",status="200",version="1"} 3.0' in lines
    assert 'zoo_requests_total{model="shapes",status="400",version="1"} 1.0' in lines
    counted = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("zoo_labels_total")]
    assert sum(counted) == 3
    assert 'zoo_confidence_count{model="shapes",output="probabilities",version="1"} 3.0' in lines
    [stats] = server.get("/v2/models/shapes/stats")["model_stats"]
    assert (stats["inference_count"], stats["execution_count"]) == (3, 3)
    assert stats["inference_stats"]["success"]["count"] == 3
    assert stats["inference_stats"]["fail"]["count"] == 1
    assert stats["inference_stats"]["compute_infer"]["ns"] > 0
    assert {each["name"] for each in server.get("/v2/models/stats")["model_stats"]} == {"plain", "shapes"}
    config = server.get("/v2/models/plain/config")
    assert {each["data_type"] for each in config["input"]} == {"TYPE_FP32"}
    facts = {each["name"]: each for each in server.get("/models")["models"]}
    assert facts["shapes"]["facts"]["backbone"] == "tiny/glyphnet"
    assert (facts["shapes"]["labels"], facts["plain"]["takes_images"]) == (3, False)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page(start: Start, model: Path, images: list[Path], scheme: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    if _CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    server = start(model)
    expected = predict(model, images[:1], device="cpu")[0]
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(color_scheme=scheme, viewport={"width": 390, "height": 844})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if server.url not in request.url else None)
        page.goto(server.url)
        page.get_by_role("status").get_by_text("ready", exact=True).wait_for()
        page.get_by_label("Choose an image").set_input_files(images[0])
        page.get_by_role("rowheader").first.wait_for()
        rows = page.get_by_role("rowheader").all_text_contents()
        assert rows == [each["label"] for each in expected["top"]]
        assert page.locator("tr td.number").first.text_content() == f"{100 * expected['probability']:.1f} %"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.get_by_text("tiny/glyphnet").is_visible()
        page.get_by_label("Choose an image").set_input_files({"name": "x", "mimeType": "image/png", "buffer": b"x"})
        page.get_by_role("alert").get_by_text("not an image").wait_for()
        browser.close()
    # The picture is shown from the browser's own memory; and the answer 400 is what was asked for.
    assert [each for each in complaints if not each.startswith("blob:") and "400" not in each] == []
