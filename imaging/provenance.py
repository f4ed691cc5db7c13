"""How a picture was made, as it says itself: software, model, version, style, parameters and seed, in an XMP packet.

`DigitalSourceType` is IPTC's, by which search engines and editors recognize pictures that a trained model had a part
in; the rest has names of our own. Nothing of the photograph's own metadata is taken over, and nothing says when: the
same request gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from imaging import xmp
from reverie import __version__
from reverie.errors import InputError

SOFTWARE = f"Reverie {__version__}"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""A composite of a photograph and what a trained model made."""

_NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "reverie": "urn:reverie:provenance:",
}
_PROPERTIES = {
    "source_type": "Iptc4xmpExt:DigitalSourceType",
    "software": "xmp:CreatorTool",
    "model": "Iptc4xmpExt:AISystemUsed",
    "version": "Iptc4xmpExt:AISystemVersionUsed",
    "manifest_sha256": "reverie:ManifestSHA256",
    "features": "reverie:Features",
    "features_sha256": "reverie:FeaturesSHA256",
    "style": "reverie:Style",
    "seed": "reverie:Seed",
    "parameters": "reverie:Parameters",
}
"""Of a packet, by field of `Provenance`."""
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BEGIN, _END = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>', '<?xpacket end="w"?>'

for _prefix, _uri in _NAMESPACES.items():
    ElementTree.register_namespace(_prefix, _uri)


@dataclass(frozen=True)
class Provenance:
    """What a packet says; what it does not say is empty.

    Attributes:
        model, version: as they are served.
        manifest_sha256: of the version's `manifest.json`, which has the hashes of all its files.
        features, features_sha256: the extractor that a dream or a transfer looked through, and its weights' file.
        style: name of a style, or several as "name=share, ...".
        seed: as text, of what was random.
        parameters: of the request, with their defaults.
        software: what made the picture.
        source_type: a term of IPTC's vocabulary `digitalsourcetype`.
    """

    model: str = ""
    version: str = ""
    manifest_sha256: str = ""
    features: str = ""
    features_sha256: str = ""
    style: str = ""
    seed: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    software: str = SOFTWARE
    source_type: str = SOURCE_TYPE

    def packet(self) -> bytes:
        """As XMP that fits into any file: where it would be too long, without parameters, and then without style."""
        shortened = replace(self, parameters={})
        packets = (_written(said) for said in (self, shortened, replace(shortened, style="")))
        return next(packet for packet in packets if len(packet) <= xmp.MAX_IN_JPEG)


def read(path: Path) -> Provenance | None:
    """What a picture or a video says of how it was made, by whatever software; None without a `DigitalSourceType`.

    Raises:
        InputError: there is no such file, it is of a kind that is not known, or its XMP is damaged.
    """
    packet = xmp.find(path)
    found = parse(packet, str(path)) if packet else None
    return found if found and found.source_type else None


def parse(packet: bytes, name: str = "XMP") -> Provenance:
    """Read a packet, from any source.

    Args:
        name: how messages call it.

    Raises:
        InputError: it is not XMP, or not UTF-8, or has a document type: entities could make it grow without end.
    """
    try:
        text = packet.decode()
        if "<!DOCTYPE" in text:
            raise ValueError("it has a document type")
        said = dict(_said(ElementTree.fromstring(text)))
    except (ValueError, ElementTree.ParseError) as error:
        raise InputError(
            f"{name}: the XMP is damaged ({error}); accepted: XML in UTF-8 without document type"
        ) from None
    found = {key: said.get(_full(name), "") for key, name in _PROPERTIES.items()}
    parameters = _parameters(found.pop("parameters"))
    return Provenance(**found, parameters=parameters)


@lru_cache(maxsize=64)
def file_hash(path: Path) -> str:
    """SHA-256 of a file that does not change; empty where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _written(provenance: Provenance) -> bytes:
    said = asdict(provenance)
    said["parameters"] = json.dumps(said["parameters"]) if said["parameters"] else ""
    root = ElementTree.Element(_full("x:xmpmeta"))
    about = {_full("rdf:about"): ""}
    properties = {_full(name): _NOT_IN_XML.sub("\ufffd", said[key]) for key, name in _PROPERTIES.items() if said[key]}
    graph = ElementTree.SubElement(root, _full("rdf:RDF"))
    ElementTree.SubElement(graph, _full("rdf:Description"), about | properties)
    return f"{_BEGIN}{ElementTree.tostring(root, encoding='unicode')}{_END}".encode()


def _said(root: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """Simple properties and their values; XMP may write them as attributes or as elements."""
    for description in root.iter(_full("rdf:Description")):
        yield from description.attrib.items()
        for element in description:
            yield element.tag, element.get(_full("rdf:resource")) or (element.text or "").strip()


def _parameters(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _full(name: str) -> str:
    """`prefix:name` as ElementTree has it."""
    prefix, _, local = name.partition(":")
    return f"{{{_NAMESPACES[prefix]}}}{local}"
