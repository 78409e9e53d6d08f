"""PNM (P1 to P6), PAM (P7) and PFM, in their full depth.

Netpbm's manual pages pbm(5), pgm(5), ppm(5) and pam(5) define all but PFM, which is defined in
"PFM: Portable FloatMap Image Format" (Debevec).
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..image import UNDECODED, Array, Image, ImageSequence, check_size, rescale
from ..integrity.fault import CUT, Damage
from . import decode_text

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURE = rb"P(?:[1-6]|[Ff])[\s#]|P7[ \t\r]*\n"
_NAMES = {b"P7": "pam", b"PF": "pfm", b"Pf": "pfm"}
_BITMAPS, _PLAIN = (b"P1", b"P4"), (b"P1", b"P2", b"P3")
_GAP = rb"(?:\s|#[^\n\r]*[\n\r])+"
_NUMBER = rb"(\d{1,10})"
_FLOAT = rb"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
# The header of each format; a single white space precedes the samples.
_HEADERS = {
    form: re.compile(form + b"".join(_GAP + field for field in fields) + end)
    for forms, fields, end in (
        ((b"P1", b"P4"), (_NUMBER, _NUMBER), rb"(?:\s|(?=#))"),
        ((b"P2", b"P3", b"P5", b"P6"), (_NUMBER, _NUMBER, _NUMBER), rb"(?:\s|(?=#))"),
        ((b"PF", b"Pf"), (_NUMBER, _NUMBER, _FLOAT), rb"(?:\r\n|\s)"),
    )
    for form in forms
}
_PAM_HEADER = re.compile(rb"P7[ \t\r]*\n(.*?)^ENDHDR[^\n]*\n", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(rb"#([^\n\r]*)")
_NOT_PLAIN = re.compile(rb"[^\d\s]")


class _Header(NamedTuple):
    form: bytes  # P1 to P7, PF or Pf
    width: int
    height: int
    depth: int  # samples per pixel
    maximum: int
    colours: int
    extra_samples: tuple[int, ...]  # as in `Image.set_samples`
    scale: float  # of a PFM
    start: int  # offset of the samples
    comments: bytes = b""  # lines of the header

    @property
    def dtype(self) -> str:
        """Type of the samples in the file."""
        if self.form in (b"PF", b"Pf"):
            return "<f4" if self.scale < 0 else ">f4"
        return ">u2" if self.maximum > 255 else "u1"

    @property
    def end(self) -> int:
        """Offset after the samples, which are binary."""
        row = self.width * self.depth * np.dtype(self.dtype).itemsize
        return self.start + self.height * (-(-self.width // 8) if self.form == b"P4" else row)


def decode(data: bytes, max_pixels: int) -> ImageSequence:
    """Decode all images to uint8 or uint16, scaled to their full range, or to float32."""
    headers: list[_Header] = []
    position = 0
    start = re.compile(SIGNATURE)
    while start.match(data, position):
        try:
            header = _parse(data, position)
        except ValueError:
            if not headers:
                raise
            break  # not an image
        prefix = f"page {len(headers) + 1}: " if headers else ""
        check_size(header.width, header.height, max_pixels, prefix)
        headers.append(header)
        if header.form in _PLAIN:  # the last one: digits end where the file ends
            break
        position = header.end

    def images() -> Iterator[Image]:
        for header in headers:
            yield _decode_image(data, header)

    return ImageSequence(images(), _NAMES.get(headers[0].form, "ppm"), len(headers))


def _parse(data: bytes, position: int) -> _Header:
    form = data[position : position + 2]
    if form == b"P7":
        return _parse_pam(data, position)
    match = _HEADERS[form].match(data, position)
    if match is None:
        raise ValueError("its header is incomplete")
    width, height = int(match[1]), int(match[2])
    count = 3 if form in (b"P3", b"P6", b"PF") else 1
    maximum, scale = 1, 1.0
    if form in (b"PF", b"Pf"):
        scale = float(match[3])
        if not math.isfinite(scale) or scale == 0:
            raise ValueError("its scale is 0 or not finite")
    elif form not in _BITMAPS:
        maximum = int(match[3])
    comments = _comments(match[0])
    return _checked(
        _Header(form, width, height, count, maximum, count, (), scale, match.end(), comments)
    )


def _parse_pam(data: bytes, position: int) -> _Header:
    match = _PAM_HEADER.match(data, position)
    if match is None:
        raise ValueError("its header is incomplete")
    lines = [line.split(None, 1) for line in match[1].splitlines() if not line.startswith(b"#")]
    fields = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    try:
        names = (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL")
        width, height, count, maximum = (int(fields[name]) for name in names)
    except KeyError as error:
        raise ValueError(f"its header has no {error.args[0].decode()}") from None
    kind = fields.get(b"TUPLTYPE", b"")
    colours = 3 if kind.startswith(b"RGB") or (not kind and count >= 3) else 1
    if not 1 <= colours <= count <= 64:
        raise ValueError(f"{count} samples per pixel do not fit its type")
    extra = (2,) if kind.endswith(b"_ALPHA") else ()
    comments = _comments(
        b"\n".join(line for line in match[1].splitlines() if line.startswith(b"#"))
    )
    end = match.end()
    return _checked(
        _Header(b"P7", width, height, count, maximum, colours, extra, 1.0, end, comments)
    )


def _comments(header: bytes) -> bytes:
    """Return the comments of a header, one a line."""
    return b"\n".join(line.strip() for line in _COMMENT.findall(header))


def _checked(header: _Header) -> _Header:
    if not 1 <= header.maximum <= 65535:
        raise ValueError(f"its maximum is {header.maximum}, not 1 to 65535")
    return header


def _decode_image(data: bytes, header: _Header) -> Image:
    image = Image(UNDECODED, format=_NAMES.get(header.form, "ppm"))
    if text := decode_text(header.comments).strip():
        image.texts = (("Comment", text),)
    samples = _read_plain(data, header) if header.form in _PLAIN else _read(data, header, image)
    if header.dtype[1] == "f":
        samples = samples[::-1].astype(np.float32)  # from the bottom to the top
        if abs(header.scale) != 1:
            image.notes.append(f"the unit of its samples, {abs(header.scale):g}, is left out")
    else:
        if samples.max() > header.maximum:
            raise ValueError(f"a sample is larger than the maximum of {header.maximum}")
        if header.form in _BITMAPS:
            samples = 1 - samples  # 1 is black
        full = 255 if header.maximum <= 255 else 65535
        dtype = np.uint8 if full == 255 else np.uint16
        if header.maximum != full:
            samples = rescale(samples, header.maximum, full)
        samples = samples.astype(dtype)
    image.set_samples(samples, header.colours, header.extra_samples)
    return image


def _read(data: bytes, header: _Header, image: Image) -> Array:
    """Return H W S binary samples; if some are missing, zeros, and set the damage."""
    raw = data[header.start : header.end]
    size = header.end - header.start
    if len(raw) < size:
        rows = len(raw) * header.height // size
        if not rows:
            raise ValueError("its samples are missing")
        image.damage = Damage(CUT, 1 - rows / header.height)
        raw += bytes(size - len(raw))
    if header.form == b"P4":
        packed = np.frombuffer(raw, np.uint8).reshape(header.height, -1)
        return np.unpackbits(packed, axis=1)[:, : header.width, None]
    return np.frombuffer(raw, header.dtype).reshape(header.height, header.width, header.depth)


def _read_plain(data: bytes, header: _Header) -> Array:
    """Return H W S samples of an image in decimal digits."""
    text = re.sub(rb"#[^\n\r]*", b"", data[header.start :])
    other = _NOT_PLAIN.search(text)
    text = text[: other.start()] if other else text
    count = header.width * header.height * header.depth
    values: Array = np.empty(0, np.int64)
    if header.form == b"P1":  # white space between digits is optional
        values = np.frombuffer(text, np.uint8)
        values = values[values >= ord("0")][:count] - ord("0")
    elif text.strip():
        values = np.fromstring(text, np.int64, count=-1, sep=" ")[:count]
    if len(values) < count:
        raise ValueError(f"{count - len(values)} of {count} samples are missing")
    return values.reshape(header.height, header.width, header.depth)
