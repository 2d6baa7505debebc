"""`onedc decompress`: Rebuild pictures from .odc files.

onedc decompress photo.odc                    writes photo.png beside it
onedc decompress photo.odc -o photo.webp      other formats by the suffix (WebP lossless, JPEG and AVIF at quality 95)
onedc decompress small/ -o rebuilt/
"""

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..pictures import exif_facts
from ..provenance import provenance_xmp
from .files import (
    Job,
    UsageError,
    add_output_arguments,
    complain,
    find_inputs,
    is_odc,
    plan,
    read,
    run_all,
    write_output,
)
from .models import add_lora_argument, add_model_arguments, load_pipeline

if TYPE_CHECKING:
    from PIL import Image

# A codec's own artefacts must not pass for ours: lossless where the format can, very nearly so where not.
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 95, "subsampling": 0},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}

_TIFF_XMP = 700  # number of the tag
_JPEG_SEGMENT = 65_000  # bytes of EXIF or XMP that fit into a JPEG, with a little room


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="FILE", help=".odc files, glob patterns, folders")
    add_output_arguments(parser)
    parser.add_argument(
        "--partial", action="store_true", help="also rebuild what arrived of files that were cut (unverified)"
    )
    parser.add_argument("--preview", action="store_true", help="stop after the hyper-latent: rough, but quick")
    parser.add_argument(
        "--no-provenance", action="store_true", help="leave out the note (XMP) that detail was synthesised"
    )
    add_model_arguments(parser)
    add_lora_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Decompress every input; one that fails is reported and skipped."""
    sources, problems = find_inputs(arguments.inputs, is_odc)
    for problem in problems:
        complain(problem)
    jobs = plan(sources, arguments.output, ".png", force=arguments.force, resume=arguments.resume)
    for job in jobs:
        picture_format(job.target)  # a suffix that nobody knows is found out before the work is done
    pipeline = load_pipeline(arguments) if any(not job.problem for job in jobs) else None

    def work(job: Job) -> str:
        assert pipeline is not None
        picture = pipeline.decompress(read(job.source), allow_partial=arguments.partial, preview=arguments.preview)
        kept = picture.info.get("xmp")
        xmp = kept if arguments.no_provenance else provenance_xmp(picture.info, kept)
        if not write_output(job, encode(picture, job.target, xmp)):
            return f"{job.target}: there already"
        return f"{job.source} -> {job.target}  {picture.width}x{picture.height}"

    failed = run_all(jobs, work, "decompress") + len(problems)
    return 1 if failed else 0


def encode(picture: "Image.Image", path: Path, xmp: bytes | None = None) -> bytes:
    """Return a picture as a file in the format that the suffix of `path` names, with an XMP packet where it can."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    name, info = picture_format(path), cast(dict[str, Any], picture.info)
    options = dict(_SAVE_OPTIONS.get(name, {}))
    kept = {key: picture.info[key] for key in ("exif", "icc_profile") if key in picture.info}
    if name == "JPEG" and len(kept.get("exif", b"")) > _JPEG_SEGMENT:
        complain(f"warning: {path}: EXIF is left out, a JPEG cannot hold so much")
        del kept["exif"]
    facts = _facts(kept.get("exif", b""))
    if facts is None:
        complain(f"warning: {path}: the kept EXIF is left out, it is damaged")
        del kept["exif"]
    if xmp is not None and (name == "JPEG" and len(xmp) > _JPEG_SEGMENT or not _is_text(xmp)):
        complain(f"warning: {path}: the kept XMP is left out, this format cannot hold it")
        xmp = None if info.get("xmp") == xmp else provenance_xmp(info)
    if picture.mode == "RGBA" and name == "JPEG":  # it has no alpha
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
    picture = picture.copy()
    picture.info = {}  # some formats would write it, each in its own way
    if name in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF"):
        options |= kept
    if xmp is not None and name == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif name == "TIFF":
        # Among the tags of its pixels, which must not be those of another file.
        tags = facts or Image.Exif()
        if xmp is not None:
            tags[_TIFF_XMP] = xmp
        options["exif"] = tags.tobytes()
    elif xmp is not None and name in ("JPEG", "WEBP", "AVIF"):
        options["xmp"] = xmp
    buffer = io.BytesIO()
    picture.save(buffer, name, **options)
    return buffer.getvalue()


def _facts(exif: bytes) -> "Image.Exif | None":
    """What EXIF says of the photograph; `None` if it cannot be read."""
    from PIL import Image

    given = Image.Exif()
    try:
        given.load(exif)
        facts = exif_facts(given)
        facts.tobytes()
    except Exception:  # other programs' tags can be anything, and so is what Pillow raises
        return None
    return facts


def _is_text(packet: bytes) -> bool:
    try:
        packet.decode()
    except UnicodeDecodeError:
        return False
    return True


def picture_format(path: Path) -> str:
    """Return Pillow's name of the format for a suffix, or raise `UsageError`."""
    from PIL import Image

    known = Image.registered_extensions()
    name = known.get(path.suffix.lower())
    if name is None or name not in Image.SAVE:
        raise UsageError(f"{path}: no picture format has this suffix; use .png, .webp, .jpg, .avif or .tif")
    return name
