"""Edit XMP packets in place, so that all unknown properties are kept.

Sections are those of the XMP specification, part 3 (Adobe, 2020).
"""

from __future__ import annotations

import hashlib
import re
from xml.etree import ElementTree

SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"  # start of a JPEG's APP1 (1.1.3)
_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]")
_WIDTH, _HEIGHT = (
    re.compile(rb"((?:tiff:%b|exif:%b)\s*(?:=\s*[\"']|>)\s*)\d+" % names)
    for names in ((b"ImageWidth", b"PixelXDimension"), (b"ImageLength", b"PixelYDimension"))
)
# Thumbnails (part 2, 8.4), with any prefix, and pictures in other properties, such as pages'.
_PICTURES = re.compile(
    rb"<([\w.-]+):Thumbnails\b[^<>]*"
    rb"(?:/>|(?<!/)>(?:(?!<\1:Thumbnails\b).)*?</\1:Thumbnails\s*>)"
    rb"|<([\w.-]+):image\b[^<>]*>[^<]*</\2:image\s*>"
    rb"|\s[\w.-]+:image\s*=\s*(?:\"[^\"]*\"|'[^']*')",
    re.DOTALL,
)
# A main packet names the digest of its extension (1.1.3.1).
_EXTENSION = re.compile(
    rb"\s[\w.-]+:HasExtendedXMP\s*=\s*[\"'](\w{32})[\"']"
    rb"|<[\w.-]+:HasExtendedXMP\s*>(\w{32})</[\w.-]+:HasExtendedXMP\s*>"
)
_PROPERTIES, _END_OF_PROPERTIES, _ENTITY = b"<rdf:RDF", b"</rdf:RDF", b"<!ENTITY"
_MAIN = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/"'
    b' xmpNote:HasExtendedXMP="%b"/></rdf:RDF></x:xmpmeta>'
)


def reset_orientation(packet: bytes) -> bytes:
    """Return the packet of a picture that was turned upright."""
    return _ORIENTATION.sub(rb"\g<1>1", packet)


def with_size(packet: bytes, width: int, height: int) -> bytes:
    """Return the packet with the size of the picture, where it has one."""
    return _HEIGHT.sub(rb"\g<1>%d" % height, _WIDTH.sub(rb"\g<1>%d" % width, packet))


def without_thumbnails(packet: bytes) -> bytes:
    """Return the packet without pictures in it."""
    return _PICTURES.sub(b"", packet)


def digest(extension: bytes) -> bytes:
    """Return the digest by which a main packet names its extension."""
    return hashlib.md5(extension, usedforsecurity=False).hexdigest().upper().encode()


def extension_digest(packet: bytes) -> bytes | None:
    """Return the digest of the extension that a main packet names."""
    found = _EXTENSION.search(packet)
    return found and (found[1] or found[2])


def extended(extension: bytes) -> bytes:
    """Return a main packet that has nothing but an extension."""
    return _MAIN % digest(extension)


def merged(packet: bytes, extension: bytes) -> bytes | None:
    """Return a main packet with the properties of its extension, or None if one is damaged."""
    start = extension.find(b">", extension.find(_PROPERTIES)) + 1
    added = extension[start : extension.rfind(_END_OF_PROPERTIES)]
    end = packet.rfind(_END_OF_PROPERTIES)
    whole = _EXTENSION.sub(b"", packet[:end]) + added + packet[end:]
    if _PROPERTIES not in extension or end < 0 or _ENTITY in whole:
        return None
    try:
        ElementTree.fromstring(whole)  # noqa: S314 - it has no entities
    except (ElementTree.ParseError, ValueError):
        return None
    return whole
