"""A stand-in for `OneDCPipeline` that writes whole `.odc` containers with a JPEG inside: quick, and no weights."""

from __future__ import annotations

import io
import sys
import types
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onedc_hf.coding.header import Kind, pack_header, parse_sections
from onedc_hf.coding.limits import MAX_PIXELS
from onedc_hf.errors import TargetError
from onedc_hf.pictures import load_picture, to_output


class FakePipeline:
    """`compress` and `decompress` as the real one has them; remembers what it was asked."""

    model_id = "ab12" + "0" * 60
    loaded: list[tuple[Any, dict[str, Any]]] = []
    asked: list[dict[str, Any]] = []
    components: dict[str, Any] = {}
    smallest = 0
    adapter_id: str | None = None
    max_pixels: int | None = MAX_PIXELS

    @classmethod
    def from_pretrained(cls, pretrained: Any = None, **options: Any) -> FakePipeline:
        cls.loaded.append((pretrained, options))
        return cls()

    def to(self, device: str) -> FakePipeline:
        self.asked.append({"device": device})
        return self

    def compress(
        self,
        image: Any,
        quality: int | None = None,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        z_only: bool = False,
        keep_metadata: bool = False,
        effort: int = 0,
    ) -> bytes:
        options = {"quality": quality, "target_bytes": target_bytes, "target_bpp": target_bpp, "z_only": z_only}
        options |= {"effort": effort} if effort else {}
        self.asked.append({name: value for name, value in options.items() if value is not None and value is not False})
        rgb = load_picture(image)
        if target_bpp is not None:
            target_bytes = int(target_bpp * rgb.shape[0] * rgb.shape[1] / 8)
        if target_bytes is not None and target_bytes < self.smallest:
            raise TargetError(f"the smallest file possible has {self.smallest} bytes", self.smallest)
        if z_only:
            quality = 1
        elif quality is None:
            quality = 50 if target_bytes is None else 10 + target_bytes % 40
        stream = io.BytesIO()
        Image.fromarray(rgb).save(stream, "JPEG", quality=max(1, quality))
        height, width = rgb.shape[:2]
        data = pack_header(
            version=0,
            width=width,
            height=height,
            kind=Kind.Z_ONLY,
            quality_row=None,
            digest=bytes.fromhex(self.model_id),
            z_coded=False,
            extended=False,
        )
        data += stream.getvalue()
        return data + zlib.crc32(data).to_bytes(4, "big")

    def decompress(
        self, data: bytes, output_type: str = "pil", allow_partial: bool = False, preview: bool = False
    ) -> Any:
        stream = bytes(parse_sections(data).stream)
        with Image.open(io.BytesIO(stream)) as picture:
            return to_output(np.array(picture.convert("RGB")), output_type)


@pytest.fixture
def fake_pipeline(monkeypatch: pytest.MonkeyPatch) -> type[FakePipeline]:
    """What `from onedc_hf.pipeline import OneDCPipeline` gives for the length of a test."""
    module = types.ModuleType("onedc_hf.pipeline")
    fresh = type("FakePipeline", (FakePipeline,), {"loaded": [], "asked": [], "components": {}})
    module.OneDCPipeline = fresh  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onedc_hf.pipeline", module)
    return fresh
