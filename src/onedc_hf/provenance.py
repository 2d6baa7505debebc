"""What a rebuilt picture says about itself: that detail was synthesised, by which model, from how many bits.

XMP is what editors, agencies and archives read. The term is IPTC's for captured media that a trained model completed:
http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia
"""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from . import __version__

__all__ = ["DIGITAL_SOURCE_TYPE", "provenance_info", "provenance_xmp"]

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_NAMESPACE = "https://huggingface.co/onedc-hf/ns/1.0/"

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:onedc={namespace}
    xmp:CreatorTool={tool}
    Iptc4xmpExt:DigitalSourceType={source}
{facts}/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def provenance_info(model_id: str, bpp: float, received: float = 1.0) -> dict[str, str]:
    """The facts as strings, as `Image.info` holds them.

    Args:
        model_id (`str`): hex digits of the model that rebuilt the picture.
        bpp (`float`): bits of the file for each pixel.
        received (`float`, *optional*): share of the latent's symbols that had arrived, 0 to 1.
    """
    info = {
        "onedc:DigitalSourceType": DIGITAL_SOURCE_TYPE,
        "onedc:ModelId": model_id,
        "onedc:BitsPerPixel": f"{bpp:.4f}",
    }
    return info if received >= 1 else {**info, "onedc:Received": f"{received:.4f}"}


def provenance_xmp(info: dict[str, str]) -> bytes:
    """An XMP packet with the facts of `provenance_info`."""
    facts = [
        f"    {name}={quoteattr(value)}"
        for name, value in info.items()
        if name.startswith("onedc:") and name != "onedc:DigitalSourceType"
    ]
    return _PACKET.format(
        namespace=quoteattr(_NAMESPACE),
        tool=quoteattr(f"onedc-hf {__version__}"),
        source=quoteattr(info.get("onedc:DigitalSourceType", DIGITAL_SOURCE_TYPE)),
        facts="\n".join(facts),
    ).encode()
