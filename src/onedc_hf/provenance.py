"""What a rebuilt picture says about itself: that detail was synthesised, by which model, from how many bits.

XMP is what editors, agencies and archives read. The term is IPTC's for captured media that a trained model completed:
http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia
"""

from __future__ import annotations

import re
from xml.sax.saxutils import quoteattr

from . import __version__

__all__ = ["DIGITAL_SOURCE_TYPE", "provenance_info", "provenance_xmp"]

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_NAMESPACE = "https://huggingface.co/onedc-hf/ns/1.0/"

_DESCRIPTION = """  <rdf:Description rdf:about=""
    xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:onedc={namespace}
    {tool}Iptc4xmpExt:DigitalSourceType={source}
{facts}/>
"""
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
{description} </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
_END = "</rdf:RDF>"
_ABOUT = re.compile(r"""rdf:about=("[^"<]*"|'[^'<]*')""")
# The property as an attribute (and our own, of an earlier round), as an element, and as an element without content.
_ORIGIN = re.compile(
    r"""\s(?:[\w.-]+:DigitalSourceType|onedc:\w+)\s*=\s*("[^"]*"|'[^']*')"""
    r"""|<([\w.-]+:DigitalSourceType)\b[^<>]*/>"""
    r"""|<([\w.-]+:DigitalSourceType)\b[^<>]*>[^<]*</\3\s*>""",
    re.DOTALL,
)


def provenance_info(model_id: str, bpp: float, received: float = 1.0, preview: bool = False) -> dict[str, str]:
    """The facts as strings, as `Image.info` holds them.

    Args:
        model_id (`str`): hex digits of the model that rebuilt the picture.
        bpp (`float`): bits of the file for each pixel.
        received (`float`, *optional*): share of the file's bytes that had arrived, 0 to 1.
        preview (`bool`, *optional*): whether only the hyper-latent was decoded, a small part of those bits.
    """
    info = {
        "onedc:DigitalSourceType": DIGITAL_SOURCE_TYPE,
        "onedc:ModelId": model_id,
        "onedc:BitsPerPixel": f"{bpp:.4f}",
    }
    if preview:
        info["onedc:Preview"] = "True"
    return info if received >= 1 else {**info, "onedc:Received": f"{received:.4f}"}


def provenance_xmp(info: dict[str, str], kept: bytes | None = None) -> bytes:
    """An XMP packet with the facts of `provenance_info`.

    Args:
        info (`dict[str, str]`): from `provenance_info`; other keys are ignored.
        kept (`bytes`, *optional*): the original's own packet, to which the facts are added. What it says of the
            picture's origin is taken out: the rebuilt picture has another. One that is no UTF-8 packet is replaced.
    """
    facts = [
        f"    {name}={quoteattr(value)}"
        for name, value in info.items()
        if name.startswith("onedc:") and name != "onedc:DigitalSourceType"
    ]

    def describe(tool: str) -> str:
        return _DESCRIPTION.format(
            namespace=quoteattr(_NAMESPACE),
            tool=tool,
            source=quoteattr(info.get("onedc:DigitalSourceType", DIGITAL_SOURCE_TYPE)),
            facts="\n".join(facts),
        )

    own = kept.decode("utf-8", errors="replace") if kept is not None else ""
    own = _ORIGIN.sub("", own)
    if own.count(_END) == 1 and "\ufffd" not in own and "DigitalSourceType" not in own:
        about = _ABOUT.search(own)  # one for all descriptions of a packet
        added = describe("").replace('rdf:about=""', about.group(0) if about else 'rdf:about=""')
        return own.replace(_END, added + _END).encode()  # its CreatorTool stays
    tool = f"xmp:CreatorTool={quoteattr(f'onedc-hf {__version__}')}\n    "
    return _PACKET.format(description=describe(tool)).encode()
