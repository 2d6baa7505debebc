"""The command as a whole: help, version, light imports, exit codes; `info`, `env` and `train`."""

import errno
import io
import json
import os
import subprocess
import sys
import types
import zlib
from pathlib import Path

import pytest

import onedc_hf
from onedc_hf.cli.main import COMMANDS, main
from onedc_hf.coding.header import Kind, Tag, pack_extensions, pack_header

HEAVY = ("torch", "transformers", "diffusers", "huggingface_hub")


def test_help_lists_every_command(onedc):
    code, out, _ = onedc("--help")
    assert code == 0
    for name in COMMANDS:
        assert any(line.split()[:1] == [name] for line in out.splitlines())


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_every_command_explains_itself(onedc, name):
    code, out, _ = onedc(name, "--help")
    assert code == 0 and out.startswith(f"usage: onedc {name}")


def test_version(onedc):
    assert onedc("--version") == (0, f"onedc-hf {onedc_hf.__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["squeeze"], ["info"]])
def test_a_line_that_makes_no_sense_ends_with_code_2(onedc, arguments):
    code, out, err = onedc(*arguments)
    assert code == 2 and out == "" and "usage:" in err


@pytest.mark.parametrize("arguments", [["--help"], ["compress", "--help"], ["--version"], ["info", "a.odc"]])
def test_facts_need_no_torch(onedc, photos, fake_pipeline, arguments):
    onedc("compress", "photos/a.png", "-o", "a.odc")
    code = f"""
import sys
from onedc_hf.cli.main import main
try:
    code = main({arguments!r})
except SystemExit as exit:
    code = exit.code
print(code, [name for name in {HEAVY} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "0 []"


# --- info -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def packed(onedc, photos, fake_pipeline):
    onedc("compress", "photos", "-o", "small/")
    return Path("small")


def test_info_json_of_one_file_is_one_object(onedc, packed):
    code, out, err = onedc("info", "small/a.odc", "--json")
    facts = json.loads(out)
    size = (packed / "a.odc").stat().st_size
    assert (code, err) == (0, "")
    assert facts["bpp"] == 8 * size / (70 * 50)
    wanted = {"file": "small/a.odc", "width": 70, "height": 50, "bytes": size, "model_id": "ab12", "kind": "z_only"}
    assert wanted.items() <= facts.items()
    assert facts["version"] == 0 and facts["quality"] is None and facts["valid"] is True


def test_info_json_of_several_files_is_a_list(onedc, packed):
    _, out, _ = onedc("info", "small/a.odc", "small/b.odc", "--json")
    assert [facts["width"] for facts in json.loads(out)] == [70, 40]
    (packed / "b.odc").unlink()
    _, out, _ = onedc("info", "small/a.odc", "small/b.odc", "--json")
    assert len(json.loads(out)) == 1  # still a list: the form follows from the question


def test_info_prints_a_table_for_people(onedc, packed):
    _, out, _ = onedc("info", "small")
    lines = out.splitlines()
    assert lines[0].split() == ["file", "kind", "quality", "size", "bytes", "bpp", "model", "version"]
    assert lines[2].startswith("small/a.odc") and "70x50" in lines[2] and len(lines) == 4
    _, out, _ = onedc("info", "small/a.odc")
    assert "70x50 pixels" in out and "model id:    ab12" in out


def test_info_says_what_a_file_carries_beside_the_picture(onedc, packed):
    assert "beside" not in onedc("info", "small/a.odc")[1]
    extensions = [(Tag.ALPHA, bytes(215)), (Tag.EXIF, bytes(4310)), (Tag.IDENTITY, bytes(4))]
    header = pack_header(
        version=1,
        width=70,
        height=50,
        kind=Kind.Z_ONLY,
        quality_row=None,
        digest=bytes(2),
        z_coded=False,
        extended=True,
    )
    body = header + b"\1x" + pack_extensions(extensions)
    Path("more.odc").write_bytes(body + zlib.crc32(body).to_bytes(4, "big"))
    code, out, _ = onedc("info", "more.odc")
    assert code == 0 and "beside:      alpha 215, exif 4,310 bytes\n" in out


def test_info_says_what_is_wrong_and_returns_1(onedc, packed, photos):
    data = (packed / "a.odc").read_bytes()
    Path("small/a.odc").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, out, err = onedc("info", "small/a.odc", "photos/a.png", "small/none.odc", "--json")
    assert code == 1
    (facts,) = json.loads(out)
    assert facts["valid"] is False and facts["width"] == 70
    assert "small/a.odc: The CRC-32" in err
    assert "photos/a.png: This is a PNG picture" in err
    assert "small/none.odc: no such file" in err


def test_info_of_a_file_that_cannot_be_read_leaves_the_others(onedc, packed, monkeypatch):
    def refuse(path):
        if path.name == "a.odc":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return honest(path)

    honest = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", refuse)
    code, out, err = onedc("info", "small")
    assert (code, err) == (1, "onedc: small/a.odc: Permission denied\n") and "40x30 pixels" in out


@pytest.mark.parametrize("several", [False, True])
def test_info_shows_a_name_that_the_terminal_cannot(packed, monkeypatch, several):
    (packed / "a.odc").rename(packed / "caf\u00e9 \udcff.odc")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["info", str(packed if several else packed / "caf\u00e9 \udcff.odc")]) == 0
    terminal.flush()
    assert rb"small/caf\xe9 \udcff.odc" in terminal.buffer.getvalue()


# --- env and train ----------------------------------------------------------------------------------------------------


def test_env_names_versions_and_processor(onedc):
    code, out, _ = onedc("env", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["onedc-hf"] == onedc_hf.__version__
    assert {"python", "torch", "diffusers", "cores", "torch threads", "cpu capability", "default dtype"} <= facts.keys()
    assert "- torch threads: " in onedc("env")[1]


def test_env_reports_a_broken_torch_instead_of_failing(onedc, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, _ = onedc("env")
    assert code == 0 and "- torch import: " in out


@pytest.mark.parametrize("arguments", [["--config", "box-stage1", "--x"], ["--help"], []])
def test_train_hands_its_arguments_on(onedc, monkeypatch, arguments):
    seen = []
    trainer = types.ModuleType("onedc_hf.training.cli")
    trainer.main = lambda argv: seen.append(argv) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onedc_hf.training", types.ModuleType("onedc_hf.training"))
    monkeypatch.setitem(sys.modules, "onedc_hf.training.cli", trainer)
    assert onedc("train", *arguments)[0] == 7
    assert seen == [arguments]
