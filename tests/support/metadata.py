"""Files with metadata, and conversion of files between formats."""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib

import PIL.Image
from PIL.PngImagePlugin import PngInfo

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.codecs.blocks import exif as exif_blocks
from tests.support.image_files import chunk, encoded, noise

PIXELS = noise(8, 12, 3)
IPTC = b"".join(
    struct.pack(">BBBH", 0x1C, 2, number, len(value)) + value
    for number, value in ((25, b"keyword-one"), (80, b"Jane"), (120, "Köln".encode()))
)
THUMBNAIL = encoded(PIL.Image.fromarray(noise(4, 6, 3, seed=1)), "JPEG")
RDF = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    b'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
    b'xmlns:xmpGImg="http://ns.adobe.com/xap/1.0/g/img/" %b>%b</rdf:Description></rdf:RDF>'
    b"</x:xmpmeta>"
)
THUMBNAILS = (
    b'<xmp:Thumbnails><rdf:Alt><rdf:li rdf:parseType="Resource"><xmpGImg:image>%b</xmpGImg:image>'
    b"</rdf:li></rdf:Alt></xmp:Thumbnails>" % base64.b64encode(THUMBNAIL)
)
XMP_START, EXTENSION = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"


def encode(images, kind, **options):
    """Return the file, and for each image its losses and notes in one list."""
    data, remarks = image_io.encode(images, kind, **options)
    return data, [[*losses, *notes] for losses, notes in remarks]


def md5(data):
    """Return the MD5 hash of data."""
    return hashlib.md5(data, usedforsecurity=False)


def segment(code, body):
    """Build a segment of a JPEG."""
    return bytes([0xFF, code]) + struct.pack(">H", len(body) + 2) + body


def resource(number, body):
    """Build a resource of Photoshop."""
    head = b"8BIM" + struct.pack(">HHI", number, 0, len(body))
    return head + body + b"\0" * (len(body) % 2)


def jpeg(*segments, **options):
    """Build a JPEG with more segments after JFIF's."""
    data = encoded(PIL.Image.fromarray(PIXELS), "JPEG", **options)
    return data[:20] + b"".join(segments) + data[20:]


def photoshop(*resources):
    """Build a JPEG's segment of Photoshop's resources."""
    return segment(0xED, b"Photoshop 3.0\0" + b"".join(resources))


def raw_profile(name, data, packed=True):
    """Build ImageMagick's text of hexadecimal digits."""
    digits = data.hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    text = f"\n{name}\n{len(data):8d}\n{lines}\n".encode()
    keyword = f"Raw profile type {name}".encode() + b"\0"
    if packed:
        return chunk(b"zTXt", keyword + b"\0" + zlib.compress(text))
    return chunk(b"tEXt", keyword + text)


def text_png(*texts, **options):
    """Build a PNG with texts."""
    info = PngInfo()
    for keyword, text in texts:
        info.add_text(keyword, text)
    return encoded(PIL.Image.fromarray(PIXELS), "PNG", pnginfo=info, **options)


def converted(data, kind):
    """Read a file and write it in a format; return the bytes, the image read back and notes."""
    (image,) = image_io.decode(data).images
    written, (notes,) = encode([image], kind)
    return written, image_io.read_image(written), notes


def user_comment(image):
    """Return the user comment in an image's EXIF."""
    return exif_blocks.parse(image.exif).tags[34665].value.raw(37510)
