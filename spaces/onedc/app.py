"""OneDC in the browser: compress a photograph, compare, take the `.odc` file away, decode one.

Runs as it stands on Hugging Face Spaces and on a desk (`python app.py`). Settings, from the environment:

ONEDC_MODEL       Hub id or folder of the model; the model in the box when unset
ONEDC_MAX_PIXELS  largest picture taken, in pixels, with sides rounded up to multiples of 64 (default 16,777,216)
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

try:
    # ZeroGPU: on Spaces only, and before anything imports torch
    from spaces import GPU  # pyright: ignore[reportAttributeAccessIssue]
except ImportError:
    GPU = None

import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from onedc_hf import OneDCError, OneDCPipeline
from onedc_hf.coding.bitstream import parse_header
from onedc_hf.picture_files import encode_picture
from onedc_hf.pictures import load_picture
from onedc_hf.precision import default_dtype

MODEL = os.environ.get("ONEDC_MODEL")
MAX_PIXELS = int(os.environ.get("ONEDC_MAX_PIXELS", "16777216"))
MAX_FILE = "20mb"
KEPT = 3600  # seconds that a file is kept at least; it goes when gradio next looks, which is as often
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "JPEG2000")  # of photographs, by Pillow's names
INTRODUCTION = """
# OneDC: photographs in a few kilobytes

One diffusion step rebuilds the picture from a tiny `.odc` file. **Detail is synthesised**: texture, small faces and
lettering look plausible and are not what was there. Not for evidence, medical pictures, documents or text.

Visitors are served one after another. On two CPU cores, 1 megapixel takes a few seconds, 4 about ten, 16 more than a
minute. What you upload (with its metadata: place, time, camera) and what comes of it lie on this machine's disk for up
to two hours.
"""


@cache
def pipeline() -> OneDCPipeline:
    """Load the model once, on the GPU where there is one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return OneDCPipeline.from_pretrained(MODEL, dtype=default_dtype(device)).to(device)


def on_gpu(pixels: Callable[..., int]) -> Callable[[Any], Any]:
    """Ask ZeroGPU for a GPU during a call with so many `pixels`; outside Spaces the function stays as it is.

    The seconds asked for are those of two CPU cores and some to begin with: no call of ours is cut off at ZeroGPU's own
    60, and a small picture takes less of a visitor's daily share and waits less.
    """
    if GPU is None:
        return lambda function: function
    return GPU(duration=lambda *given: 20 + 5 * pixels(*given) // 10**6)


@contextmanager
def explained() -> Iterator[None]:
    """Show the library's errors and warnings to the visitor; anything else stays masked by gradio."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except OneDCError as error:
            raise gr.Error(str(error), print_exception=False) from error
    for note in notes:
        gr.Warning(str(note.message))


def check_pixels(width: int, height: int) -> None:
    """Refuse a picture that is larger than this app takes, before its pixels are decoded.

    Sides count as the codec pads them: a picture that is one pixel high costs as much as one of 64.
    """
    padded = (-(-width // 64) * 64) * (-(-height // 64) * 64)
    if padded > MAX_PIXELS:
        raise gr.Error(
            f"The picture has {width} x {height} pixels, {padded:,} with its sides rounded up to multiples of 64; this "
            f"app takes up to {MAX_PIXELS:,}. Scale it down, or use the onedc command on your machine.",
            print_exception=False,
        )


def facts(data: bytes) -> str:
    """Say in one line what a file weighs and which model wrote it."""
    header = parse_header(data)
    size = f"{header.width} x {header.height} pixels"
    return f"**{header.size:,} bytes**, {header.bpp:.4f} bits per pixel, {size}, model `{header.model_id}`"


def path_of(picture: dict[str, Any] | None) -> Path:
    """Say where the file lies that the visitor sent, which nobody has opened yet.

    gradio looks at paths only where a request marks them as files, and lets addresses with the pixels in them through.
    """
    if picture is None:
        raise gr.Error("Choose a picture first.", print_exception=False)
    path = Path(picture.get("path") or "").resolve()
    if not path.is_relative_to(Path(picture_in.GRADIO_CACHE).resolve()):
        raise gr.Error("Upload the picture: paths and data: addresses are not opened here.", print_exception=False)
    if not path.is_file():
        raise gr.Error("The upload is no longer here: choose the picture again.", print_exception=False)
    return path


@on_gpu(lambda original, _: original.shape[0] * original.shape[1])
def round_trip(original: np.ndarray, quality: int) -> tuple[bytes, Image.Image]:
    """Compress a picture and rebuild it."""
    with explained():
        data = pipeline().compress(original, quality=quality)
        return data, pipeline().decompress(data)


@on_gpu(lambda file: parse_header(file).width * parse_header(file).height)
def rebuild(file: bytes) -> Image.Image:
    """Rebuild the picture of a file."""
    with explained():
        return pipeline().decompress(file)


def photograph(path: Path) -> np.ndarray:
    """Read the visitor's picture, `[H, W, 3]` uint8."""
    try:
        with Image.open(path, formats=FORMATS) as opened:
            check_pixels(*opened.size)
            original = load_picture(opened)  # the picture, since errors would name a file of this machine
    except (OneDCError, gr.Error):
        raise
    except Exception as error:  # Pillow's decoders raise anything for a damaged file, and name files of this machine
        text = f"This file is no picture that can be read here ({', '.join(FORMATS)}), or has far too many pixels."
        raise gr.Error(text, print_exception=False) from error
    check_pixels(original.shape[1], original.shape[0])  # not every header tells the truth
    return original


def with_note(rebuilt: Image.Image) -> str:
    """Write a rebuilt picture as PNG with the note that detail was synthesised, which gradio's own would lack."""
    return save_bytes_to_cache(encode_picture(rebuilt, Path("rebuilt.png")), "rebuilt.png", odc_out.GRADIO_CACHE)


def compress(picture: dict[str, Any] | None, quality: float) -> tuple[tuple[Image.Image, str], str, str]:
    """Compress a picture and rebuild it.

    Args:
        picture: file with the picture, as gradio describes files.
        quality: 0 (smallest file) to 100.

    Returns:
        The original and the PNG file of the rebuilt picture, one line of facts, and the `.odc` file.
    """
    path, quality = path_of(picture), quality_in.preprocess(quality)
    with explained():
        original = photograph(path)
    data, rebuilt = round_trip(original, int(quality))
    file = save_bytes_to_cache(data, f"{path.stem}.odc", odc_out.GRADIO_CACHE)
    return (Image.fromarray(original), with_note(rebuilt)), facts(data), file


def decompress(file: bytes | None) -> tuple[str, str]:
    """Rebuild the picture of an `.odc` file.

    Args:
        file: the file.

    Returns:
        The PNG file of the picture and one line of facts.
    """
    if file is None:
        raise gr.Error("Choose an .odc file first.", print_exception=False)
    with explained():
        header = parse_header(file)
        check_pixels(header.width, header.height)
    return with_note(rebuild(file)), facts(file)


def example_pictures() -> list[str]:
    """List the photographs that come with the package."""
    folder = files("onedc_hf") / "box" / "pictures"
    if not folder.is_dir():
        return []
    return sorted(str(path) for path in folder.iterdir() if path.name.endswith((".jpg", ".png")))


with gr.Blocks(title="OneDC", delete_cache=(KEPT, KEPT)) as demo:
    gr.Markdown(INTRODUCTION)
    with gr.Tab("Compress"), gr.Row():
        with gr.Column(scale=1):
            picture_in = gr.Image(type="filepath", label="Photograph", elem_id="picture")
            quality_in = gr.Slider(0, 100, value=50, step=1, label="Quality", elem_id="quality")
            compress_button = gr.Button("Compress", variant="primary", elem_id="compress")
            if example_pictures():
                gr.Examples(example_pictures(), picture_in)
        with gr.Column(scale=2):
            # PNG: gradio's default is lossy WebP, whose artefacts would pass for ours.
            pair_out = gr.ImageSlider(label="Original | rebuilt", format="png", elem_id="pair")
            facts_out = gr.Markdown(elem_id="facts")
            odc_out = gr.File(label="The .odc file", elem_id="odc")
    with gr.Tab("Decode"), gr.Row():
        with gr.Column(scale=1):
            odc_in = gr.File(label="An .odc file", file_types=[".odc"], type="binary", elem_id="odc-in")
            decode_button = gr.Button("Decode", variant="primary", elem_id="decode")
        with gr.Column(scale=2):
            picture_out = gr.Image(label="Rebuilt", format="png", interactive=False, elem_id="decoded")
            decoded_facts_out = gr.Markdown(elem_id="decoded-facts")
    # One queue for both: they share the model and the machine.
    compress_button.click(
        compress,
        [picture_in, quality_in],
        [pair_out, facts_out, odc_out],
        api_name="compress",
        scroll_to_output=True,  # which lies below the button on a phone
        preprocess=False,  # else gradio opens the file before us: with any decoder, and without a word if that fails
        concurrency_limit=1,
        concurrency_id="codec",
    )
    decode_button.click(
        decompress,
        odc_in,
        [picture_out, decoded_facts_out],
        api_name="decompress",
        scroll_to_output=True,
        concurrency_limit=1,
        concurrency_id="codec",
    )

demo.queue(max_size=20)

if GPU is not None or __name__ == "__main__":
    pipeline()  # before the first visitor comes: ZeroGPU wants it so, and a wrong ONEDC_MODEL is for the log

if __name__ == "__main__":
    demo.launch(max_file_size=MAX_FILE)
