"""Files that are whole, but of a kind or with a feature that no decoder supports."""

from __future__ import annotations

import re

from ...errors import ImageError
from ..integrity.jpeg import FRAMES

_MAGICK = "Convert it: magick {name} out.png"
_FRAME = "Name an image. To take a frame of a video: ffmpeg -i {name} -frames:v 1 out.png"
_TO_PNG = "Convert it to PNG, for example with an image editor."
# Start of a file -> its kind, and how to convert it.
_KINDS = tuple(
    (re.compile(start, re.DOTALL), kind, hint)
    for start, kind, hint in (
        (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", "Convert it: djxl {name} out.png"),
        (rb"\x76\x2f\x31\x01", "OpenEXR", "Convert it: oiiotool {name} -d half -o out.tif"),
        (rb"#\?(?:RADIANCE|RGBE)\n", "Radiance HDR", "Convert it: oiiotool {name} -o out.tif"),
        (rb"DDS \x7c\0\0\0", "DDS", _MAGICK),
        (rb"\0\0[\x01\x02]\0[^\0]\0", "an icon", _MAGICK),
        (rb"8BPS\0\x02", "PSB (large Photoshop document)", _MAGICK),
        (rb"8BPS\0\x01.{16}\0[\x10 ]", "PSD of more than 8 bits", _MAGICK),
        (rb"BPG\xfb", "BPG", "Convert it: bpgdec -o out.png {name}"),
        (rb"FLIF[1Aa]", "FLIF", "Convert it: flif -d {name} out.png"),
        (rb"II\xbc\x01", "JPEG XR", "Convert it: JxrDecApp -i {name} -o out.tif"),
        (rb"AT&TFORM", "DjVu", "Convert it: ddjvu -format=tiff {name} out.tif"),
        (rb"\x8aMNG\r\n\x1a\n|\x8bJNG\r\n\x1a\n", "MNG or JNG", _MAGICK),
        (rb"SDPX|XPDS|\x80\x2a\x5f\xd7", "DPX or Cineon", "Convert it: oiiotool {name} -o out.tif"),
        (rb".{128}DICM", "DICOM", "Convert it: dcm2pnm +on2 {name} out.png"),
        (rb"gimp xcf ", "XCF (of GIMP)", "Export it from GIMP as PNG or TIFF."),
        (rb"/\* XPM \*/|#define \w+_width ", "XPM or XBM", _MAGICK),
        (rb"icns", "an icon", _MAGICK),
        (rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", "WMF or EMF", _TO_PNG),
        (rb"\xff\xd8\xff\xf7", "JPEG-LS", _TO_PNG),
        (rb"PK\x03\x04", "a ZIP archive", "Unpack it, or export the image as PNG or TIFF."),
        (rb"version https://git-lfs", "a pointer of Git LFS", "Get the image: git lfs pull"),
        (
            rb"(?:\xef\xbb\xbf)?\s*(?:<[?!].{0,2000}?)?<svg[\s/>:]",
            "SVG",
            "Convert it: rsvg-convert {name} -o out.png",
        ),
        (rb"%PDF-", "PDF", "Convert it: pdftoppm -r 300 -png {name} out"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript", _MAGICK),
        (rb"....ftyp(?:isom|iso[2-9]|mp4|avc1|qt  |M4V|3g[2p]|dash)", "a video", _FRAME),
        (rb"\x1aE\xdf\xa3|RIFF....AVI |FLV\x01|\0\0\x01\xba", "a video", _FRAME),
        (
            rb"\x89PNG\r\n\x1a\n....CgBI",
            "Xcode's own kind of PNG (CgBI)",
            "Convert it: pngcrush -revert-iphone-optimizations {name} out.png",
        ),
        (
            rb"(?i:\s*(?:<\?xml.{0,200}?)?(?:<!doctype html|<html))",
            "a web page",
            "Download the image itself.",
        ),
    )
)
# Words of the libraries about a file that is whole.
_WORDS = re.compile(r"unsupported|not supported|unknown (?:pixel |raw )?mode", re.IGNORECASE)
_JPEG_PROCESSES = {  # ITU-T T.81, table B.1
    **dict.fromkeys((0xC3, 0xCB), "lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical JPEG"),
}
_FRAME_HEADER = 6  # bytes before the descriptions of components (ITU-T T.81, B.2.2)
_TIFF_COMPRESSIONS = {
    34661: "JBIG",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG of a DNG",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
# Those that Pillow's libtiff decodes.
_TIFF_DECODED = frozenset(
    [1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34925, 50000, 32809, 32766, 34676, 34677]
)


def check_kind(data: bytes, name: str) -> None:
    """Raise ImageError if the file is of a kind that is known, but not supported."""
    for start, kind, hint in _KINDS:
        if start.match(data):
            raise ImageError(f"{kind}: not supported", hint.format(name=name))


def check_jpeg(segments: list[tuple[bytes, bytes]]) -> None:
    """Check that a JPEG, given its markers and bodies, is of a supported process.

    Raises:
        ImageError: the process, or the number of bits or components, is not supported.
        ValueError: a frame header is cut off.
    """
    for marker, body in segments:
        if marker[1] not in FRAMES:
            continue
        if marker[1] in _JPEG_PROCESSES:
            raise ImageError(f"{_JPEG_PROCESSES[marker[1]]}: not supported", _TO_PNG)
        if len(body) < _FRAME_HEADER:
            raise ValueError("the header of its frame is cut off")
        bits, components = body[0], body[5]
        if bits != 8:
            raise ImageError(f"JPEG of {bits} bits: not supported", _TO_PNG)
        if components not in (1, 3, 4):
            raise ImageError(f"JPEG of {components} components: not supported", _TO_PNG)


def check_tiff(compression: int) -> None:
    """Raise ImageError if a compression of a TIFF is not supported."""
    if compression not in _TIFF_DECODED:
        kind = _TIFF_COMPRESSIONS.get(compression, f"number {compression}")
        raise ImageError(
            f"TIFF compression {kind}: not supported",
            "Compress it in another way: tiffcp -c zip in.tif out.tif, or magick in.tif -compress "
            "zip out.tif",
        )


def is_unsupported(error: BaseException) -> bool:
    """Return True if a library's error is about a missing feature, and not about damage."""
    return _WORDS.search(str(error)) is not None
