"""A Pillow plug-in: `Image.open("picture.odc")` after `import onedc_hf`, by the model in the box (see _register.py).

Opening reads the header alone, without torch and without a model; the picture is rebuilt when its pixels are asked for.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from PIL import ImageFile

from ._register import FORMAT
from .beside import kept_metadata
from .coding import Tag, parse_header
from .coding.header import parse_sections
from .errors import BitstreamError, Corrupt

if TYPE_CHECKING:
    from .pipeline import OneDCPipeline

__all__ = ["OdcImageFile"]


@functools.cache
def _box() -> OneDCPipeline:
    """The model in the box, loaded once a process."""
    from .pipeline import OneDCPipeline

    return OneDCPipeline.from_pretrained()


class OdcImageFile(ImageFile.ImageFile):
    """An `.odc` file as Pillow sees it."""

    format = FORMAT
    format_description = "OneDC one-step diffusion codec"
    _data = b""  # the file, until its picture is rebuilt; none after unpickling, which brings the pixels

    def _open(self) -> None:
        self._data = self.fp.read() if self.fp is not None else b""
        try:
            header = parse_header(self._data)
        except BitstreamError as error:
            raise SyntaxError(str(error)) from error  # what Pillow expects from a plug-in that cannot read a file
        extensions = _extensions(self._data)
        self._mode = "RGBA" if any(tag == Tag.ALPHA for tag, _ in extensions) else "RGB"
        self._size = (header.width, header.height)
        self.info = {"onedc:ModelId": header.model_id, "onedc:BitsPerPixel": f"{header.bpp:.4f}"}
        with suppress(Corrupt):  # `load` says what is wrong
            kept = kept_metadata(extensions)
            kept.pop("icc_profile", None)  # the colours are its own only when the picture is rebuilt
            self.info |= kept
        self.tile = []

    def verify(self) -> None:
        """Check header, sections and checksum, without a model. As every Pillow picture, it can only be closed then.

        Raises:
            BitstreamError: what is wrong with the file.
        """
        if self._data:
            parse_sections(self._data)
        super().verify()

    def load(self) -> Any:
        """Rebuild the picture, once.

        Raises:
            BitstreamError: what is wrong with the file, or that another model wrote it.
        """
        if self._data:
            picture = _box().decompress(self._data)
            self.im, self.info, self._data = picture.im, self.info | picture.info, b""
            self._mode = picture.mode
            if self.fp is not None and self._exclusive_fp:
                self.fp.close()
            self.fp = None
        return super().load()


def _extensions(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """What comes beside the picture, as far as that can be seen without a model."""
    try:
        return parse_sections(data).extensions
    except BitstreamError:  # `load` says what is wrong
        return ()
