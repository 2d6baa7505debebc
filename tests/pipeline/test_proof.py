"""A file is proved before it is handed out, and entropy weights before they are used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onedc_hf import EncodeError, ModelError, OneDCPipeline
from onedc_hf.coder import Analysed, SymbolCoder
from onedc_hf.coding import inspect, parse_header

Picture = Callable[..., np.ndarray]


def test_casting_a_loaded_pipeline_does_not_change_its_identity(
    tiny_folder: Path, tiny_pipeline: OneDCPipeline
) -> None:
    assert OneDCPipeline.from_pretrained(tiny_folder).to(torch.bfloat16).model_id == tiny_pipeline.model_id


def test_changed_entropy_weights_are_noticed(tiny_folder: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    pipe.codec.entropy.reduction.weight[0, 0, 0] += 1
    with pytest.raises(ModelError, match="digest"):
        pipe.compress(np.zeros((8, 8, 3), np.uint8))


def test_integers_that_could_overflow_are_refused_though_the_identity_holds(tiny_folder: Path, tmp_path: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    pipe.codec.entropy.reduction.multiplier[0] = 1 << 16
    pipe.codec.config.model_id = pipe.codec.entropy.digest().hex()
    pipe.save_pretrained(tmp_path / "wild")
    with pytest.raises(ModelError, match=r"wild.*out of bounds"):
        OneDCPipeline.from_pretrained(tmp_path / "wild")


def test_a_float_model_is_made_exact_on_first_use_and_says_so(
    tiny_folder: Path, picture: Picture, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    pipe.codec.make_float()
    data = pipe.compress(picture(64, 64))
    assert "made exact" in caplog.text
    assert parse_header(data).version == 1 and pipe.codec.config.entropy_path == "exact"
    pipe.codec.entropy.z_counts.add_(0)  # not frozen by the inference mode it was made in
    assert pipe.decompress(data).size == (64, 64)


def test_a_file_that_does_not_decode_here_is_not_handed_out(
    tiny_folder: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    write = SymbolCoder.write

    def faulty(*arguments: object) -> bytes:
        data = bytearray(write(*arguments))  # type: ignore[arg-type]
        data[-6] ^= 1
        return bytes(data)

    monkeypatch.setattr(SymbolCoder, "write", faulty)
    with pytest.raises(EncodeError, match="does not decode"):
        pipe.compress(picture(64, 64))


@pytest.mark.parametrize("what", ["symbol", "scale index"])
def test_a_file_of_other_symbols_is_not_handed_out_though_its_container_is_whole(
    tiny_folder: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    encode_units, changed = SymbolCoder.encode_units, []

    def faulty(coder: SymbolCoder, analysed: Analysed, row: int, write: Any, nearest: bool = False) -> None:
        def write_changed(symbols: np.ndarray, index: np.ndarray) -> None:
            symbols, index = symbols.copy(), index.copy()
            if not changed and what == "symbol":
                symbols.flat[0] += 1000  # the passes that follow have another context
            elif not changed:
                index.flat[0] += 40  # as on a machine whose networks say something else
            changed.append(what)
            write(symbols, index)

        encode_units(coder, analysed, row, write_changed, nearest)

    monkeypatch.setattr(SymbolCoder, "encode_units", faulty)
    with pytest.raises(EncodeError, match="does not decode"):
        pipe.compress(picture(64, 64))
    changed.clear()
    monkeypatch.setattr(SymbolCoder, "prove", lambda *_: None)
    assert inspect(pipe.compress(picture(64, 64)))["valid"]


@pytest.mark.parametrize("rate", [{"z_only": True}, {"quality": 50}], ids=str)
def test_a_file_of_another_hyper_latent_is_not_handed_out(
    tiny_folder: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch, rate: dict[str, Any]
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    write = SymbolCoder.write

    def faulty(coder: SymbolCoder, analysed: Analysed, *rest: Any) -> bytes:
        return write(coder, dataclasses.replace(analysed, z_index=analysed.z_index ^ 1), *rest)

    monkeypatch.setattr(SymbolCoder, "write", faulty)
    with pytest.raises(EncodeError, match="hyper-latent differs"):
        pipe.compress(picture(64, 64), **rate)
