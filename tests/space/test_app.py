"""The Space: its functions, and the running app through its client."""

import ast
import base64
import contextlib
import importlib.util
import os
import re
import runpy
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import onedc_hf
from onedc_hf.provenance import DIGITAL_SOURCE_TYPE

gradio = pytest.importorskip("gradio")

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "spaces" / "onedc"


@pytest.fixture(scope="module")
def app(tiny_folder, tmp_path_factory):
    """The app as a module, on the tiny model, with few pixels allowed; what lies in a `tmp_path` counts as uploaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.getbasetemp()))
        patch.setenv("ONEDC_MODEL", str(tiny_folder))
        patch.setenv("ONEDC_MAX_PIXELS", "20000")
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        yield load_app()


def load_app() -> ModuleType:
    """Run app.py as a module of its own, with the environment at hand."""
    spec = importlib.util.spec_from_file_location("onedc_space", SPACE / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def client(tiny_folder):
    """A client of the app as Spaces runs it: the script, in a process of its own."""
    from gradio_client import Client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "ONEDC_MODEL": str(tiny_folder)}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=SPACE, env=os.environ | settings)
    try:
        yield Client(wait_for(f"http://127.0.0.1:{port}", process), verbose=False)
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url: str, process: subprocess.Popen) -> str:
    """Wait until the app answers, and return its address."""
    for _ in range(240):
        assert process.poll() is None, "the app ended before it answered"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return url
        time.sleep(0.5)
    raise TimeoutError(f"no answer from {url}")


def sent(path: Path) -> dict:
    """What gradio hands to a function for an uploaded file."""
    return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def photo(tmp_path, picture):
    path = tmp_path / "photo one.png"
    Image.fromarray(picture(90, 120)).save(path)
    return path


def test_compress_gives_both_pictures_the_facts_and_a_file_that_decodes(app, photo):
    (original, rebuilt), line, file = app.compress(sent(photo), 40)
    assert np.array_equal(np.asarray(original), np.asarray(Image.open(photo)))
    with Image.open(rebuilt) as picture:
        assert picture.size == original.size == (120, 90)
    assert Path(file).suffix == ".odc"
    data = Path(file).read_bytes()
    assert f"**{len(data):,} bytes**, {8 * len(data) / (120 * 90):.4f} bits per pixel, 120 x 90 pixels" in line
    assert data == app.pipeline().compress(photo, quality=40)
    decoded, again = app.decompress(data)
    assert np.array_equal(np.asarray(Image.open(decoded)), np.asarray(Image.open(rebuilt)))
    assert again == line


def test_nothing_chosen_is_an_error_that_says_so(app):
    with pytest.raises(gradio.Error, match="Choose a picture first"):
        app.compress(None, 40)
    with pytest.raises(gradio.Error, match=r"Choose an \.odc file first"):
        app.decompress(None)


@pytest.mark.parametrize(("size", "padded"), [((1000, 21), "65,536"), ((321, 1), "24,576")])
def test_a_large_picture_is_refused_before_it_is_decoded(app, tmp_path, size, padded):
    path = tmp_path / "large.png"
    Image.new("L", size).save(path)
    said = rf"{size[0]} x {size[1]} pixels, {padded} with its sides rounded.* takes up to 20,000"
    with pytest.raises(gradio.Error, match=said):
        app.compress(sent(path), 40)


def test_a_file_that_is_no_picture_is_an_error_that_does_not_name_our_folders(app, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"no picture")
    with pytest.raises(gradio.Error, match="no picture that can be read") as caught:
        app.compress(sent(path), 40)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(("name", "marker"), [("cut.png", b"IHDR"), ("altered.avif", b"ispe")])
def test_a_damaged_picture_is_an_error_of_ours_whatever_pillow_raises(app, tmp_path, name, marker):
    path = tmp_path / name
    Image.new("RGB", (40, 30), "red").save(path)
    data = bytearray(path.read_bytes())
    at = data.index(marker)
    path.write_bytes(data[: at + 6] if name == "cut.png" else data[:at] + b"none" + data[at + 4 :])
    with pytest.raises(gradio.Error, match="no picture that can be read|damaged"):
        app.compress(sent(path), 40)


def test_a_format_that_is_none_of_photographs_is_not_opened(app, tmp_path):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (40, 30)).save(path, "PPM")
    with pytest.raises(gradio.Error, match="no picture that can be read"):
        app.compress(sent(path), 40)


def test_a_picture_that_is_larger_than_its_header_says_is_refused(app, photo, monkeypatch):
    monkeypatch.setattr(app, "load_picture", lambda _: np.zeros((300, 300, 3), np.uint8))
    with pytest.raises(gradio.Error, match="300 x 300"):
        app.compress(sent(photo), 40)


def test_a_file_that_states_a_large_picture_is_refused_before_it_is_rebuilt(app, monkeypatch):
    data = app.pipeline().compress(np.zeros((130, 200, 3), np.uint8), z_only=True)
    monkeypatch.setattr(app, "pipeline", lambda: pytest.fail("asked the model"))
    with pytest.raises(gradio.Error, match=r"200 x 130 pixels, 49,152 with .* takes up to 20,000"):
        app.decompress(data)


def test_an_upload_that_was_deleted_meanwhile_is_asked_for_again(app, tmp_path):
    with pytest.raises(gradio.Error, match="choose the picture again"):
        app.compress(sent(tmp_path / "gone.png"), 40)


def test_a_foreign_file_is_an_error_of_ours(app):
    with pytest.raises(gradio.Error, match="PNG"):
        app.decompress(b"\x89PNG\r\n\x1a\n" + bytes(100))


def test_zero_gpu_is_asked_for_as_long_as_the_picture_takes_and_only_for_pictures(app, tmp_path, monkeypatch):
    asked = []

    def gpu(duration):
        return lambda function: lambda *given: (asked.append(duration(*given)), function(*given))[1]

    monkeypatch.setitem(sys.modules, "spaces", spaces := ModuleType("spaces"))
    spaces.GPU = gpu
    monkeypatch.setenv("ONEDC_MAX_PIXELS", "1000000")
    on_zero = load_app()
    for name, size in (("small.png", (120, 90)), ("large.png", (1000, 600))):
        path = tmp_path / name
        Image.new("RGB", size).save(path)
        _, _, file = on_zero.compress(sent(path), 40)
        on_zero.decompress(Path(file).read_bytes())
    assert asked == [20, 20, 23, 23]
    path.write_bytes(b"no picture")
    for call in (lambda: on_zero.compress(sent(path), 40), lambda: on_zero.decompress(path.read_bytes())):
        with pytest.raises(gradio.Error):
            call()
    assert len(asked) == 4


def test_spaces_is_imported_before_anything_that_imports_torch():
    tree = ast.parse((SPACE / "app.py").read_text(encoding="utf-8"))
    imports = [(node.lineno, node.module.split(".")[0]) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert next(name for _, name in sorted(imports) if name not in sys.stdlib_module_names) == "spaces"


def test_warnings_of_the_library_reach_the_visitor(app, tmp_path):
    path = tmp_path / "alpha.png"
    Image.new("RGBA", (40, 30), (200, 10, 10, 90)).save(path)
    with pytest.warns(UserWarning, match="white"):
        app.compress(sent(path), 40)


def test_round_trip_through_the_client_equals_the_library(app, client, photo, tmp_path):
    from gradio_client import handle_file

    pair, line, file = client.predict(handle_file(photo), 40, api_name="/compress")
    data = Path(file).read_bytes()
    assert data == app.pipeline().compress(photo, quality=40)
    assert "bits per pixel" in line
    # PNG all the way: the original arrives as it was sent
    assert np.array_equal(np.asarray(Image.open(pair[0]).convert("RGB")), np.asarray(Image.open(photo)))
    picture, again = client.predict(handle_file(file), api_name="/decompress")
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(Image.open(pair[1])))
    for path in (picture, pair[1]):  # the note that programs read
        with Image.open(path) as rebuilt:
            assert rebuilt.format == "PNG" and DIGITAL_SOURCE_TYPE in rebuilt.info["XML:com.adobe.xmp"]
    assert again == line


def test_client_sees_our_message(client, tmp_path):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    path = tmp_path / "broken.odc"
    path.write_bytes(b"no such thing")
    with pytest.raises(AppError, match="not an"):
        client.predict(handle_file(path), api_name="/decompress")


@pytest.mark.parametrize(
    ("name", "content"), [("notes.txt", b"no picture"), ("empty.jpg", b""), ("photo.heic", b"\0\0\0\x18ftypheic")]
)
def test_client_that_sends_no_picture_sees_our_message(client, tmp_path, name, content):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AppError, match="no picture that can be read here .JPEG, PNG"):
        client.predict(handle_file(path), 40, api_name="/compress")


def test_pictures_that_were_not_uploaded_are_not_opened(client):
    """An address with the pixels in it knows no limit of size or format; a path may name any picture on the machine."""
    from gradio_client.exceptions import AppError

    picture = ROOT / "src" / "onedc_hf" / "box" / "pictures" / "lake.jpg"
    data = "data:image/jpeg;base64," + base64.b64encode(picture.read_bytes()).decode()
    for payload in ({"url": data}, {"url": data, "meta": sent(picture)["meta"]}, {"path": str(picture), "meta": {}}):
        with pytest.raises(AppError, match="Upload the picture"):
            client.predict(payload, 40, api_name="/compress")


def test_client_that_sends_a_quality_out_of_range_sees_why(client, photo):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="greater than maximum value 100"):
        client.predict(handle_file(photo), 101, api_name="/compress")


def test_page_says_how_long_uploads_stay(app):
    assert sum(app.demo.delete_cache) == 2 * 3600
    for text in (app.INTRODUCTION, (SPACE / "README.md").read_text(encoding="utf-8")):
        assert "disk for up to two hours" in " ".join(text.split())
    assert "minute" in app.INTRODUCTION


def test_endpoints_and_their_parameters_are_a_contract(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    names = {name: [parameter["parameter_name"] for parameter in row["parameters"]] for name, row in endpoints.items()}
    assert names == {"/compress": ["picture", "quality"], "/decompress": ["file"]}


def test_app_with_a_wrong_model_does_not_start(app, tmp_path, monkeypatch):
    monkeypatch.setenv("ONEDC_MODEL", str(tmp_path))
    monkeypatch.setattr(gradio.Blocks, "launch", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(app.OneDCError, match="model"):
        runpy.run_path(str(SPACE / "app.py"), run_name="__main__")


def test_front_matter_names_the_gradio_we_test_with():
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^(\w+): (.*)$", text.split("---")[1], re.MULTILINE))
    assert fields["sdk"] == "gradio"
    assert fields["app_file"] == "app.py"
    assert fields["python_version"] == '"3.12"'
    constraints = (ROOT / "constraints" / "newest.txt").read_text(encoding="utf-8")
    assert f"gradio=={fields['sdk_version']}\n" in constraints
    assert not re.search(r"^gradio", (SPACE / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", ["README.md", "requirements.txt"])
def test_the_wheel_that_is_named_is_the_one_that_is_built(name):
    named = re.findall(r"onedc_hf-(.+?)-py3-none-any\.whl", (SPACE / name).read_text(encoding="utf-8"))
    assert named == [onedc_hf.__version__]
