"""Convert metadata to the format of the output.

Within one format, the codecs keep segments and chunks byte for byte. Other formats get the fields
of `Image`, in their usual places. What a format cannot hold is named in `Image.losses`.
"""

from __future__ import annotations

import re
from contextlib import suppress
from email.utils import parsedate
from typing import TYPE_CHECKING, TypeAlias

from .codecs import CODEC_ERRORS, INCH, jpeg, png
from .codecs.blocks import exif, photoshop, xmp
from .codecs.blocks.exif import (
    ASCII,
    BYTE,
    LONG,
    UNDEFINED,
    Directory,
    Tag,
)
from .codecs.blocks.tags import (
    ARTIST,
    COPYRIGHT,
    DATE_TIME,
    DESCRIPTION,
    EXIF_IFD,
    PHOTOSHOP,
    SOFTWARE,
    USER_COMMENT,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .image import Image

# Format -> kinds of metadata that it holds. Texts and dpi go into EXIF where there is no other
# place for them.
_FIELDS = ("EXIF", "ICC", "XMP", "IPTC")
_HELD = {
    "png": {*_FIELDS, "dpi", "texts"},
    "jpeg": {*_FIELDS, "dpi", "comments"},
    "tiff": {*_FIELDS, "dpi"},
    "webp": {"ICC", "EXIF", "XMP"},
    "avif": {"ICC", "EXIF", "XMP"},
    "heif": {"ICC", "EXIF", "XMP"},
    "dng": {"EXIF", "XMP", "IPTC", "dpi"},
    "bmp": {"dpi"},
}
# Smallest and largest dpi: integers in a JPEG's JFIF segment; dots per metre of 31 bits in PNG and
# BMP; rational numbers of 32 bits elsewhere.
_PER_METRE = (0.5 * INCH, (2**31 - 1) * INCH)
_DPI = {"jpeg": (0.5, 65535.0), "png": _PER_METRE, "bmp": _PER_METRE}
_RATIONAL = (0.001, 2**32 - 2.0)
# Keywords of PNG -> tags (TIFF 6.0, section 8), the more fitting keyword first.
_TAGS = {
    "Description": DESCRIPTION,
    "Title": DESCRIPTION,
    "Author": ARTIST,
    "Copyright": COPYRIGHT,
    "Software": SOFTWARE,
    "Creation Time": DATE_TIME,
}
_RANKS = {keyword: rank for rank, keyword in enumerate(_TAGS)}
_BLANK = b"\0 "
_PARAMETERS = "parameters"  # of image generators, whose JPEGs have them in the user comment
_DATE = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_Extras: TypeAlias = tuple[tuple[bytes, bytes], ...]
_Texts: TypeAlias = tuple[tuple[str, str], ...]
_TURNED: dict[str, Callable[[_Extras], _Extras]] = {
    "jpeg": jpeg.with_axes_exchanged,
    "png": png.with_axes_exchanged,
}
# Photoshop's resources in the formats that hold them.
_RESOURCES: dict[str, Callable[[_Extras], bytes]] = {"jpeg": jpeg.resources, "png": png.resources}
_WITH_RESOURCES: dict[str, Callable[[bytes], _Extras]] = {
    "jpeg": jpeg.of_resources,
    "png": png.of_resources,
}


def read_orientation(image: Image) -> int:
    """Return the orientation of the picture, 1 to 8, and reset it (EXIF 2.32, 4.6.4).

    It is 1 for a picture that its decoder has turned already.
    """
    orientation = 1
    if image.exif is not None:
        image.exif = image.exif.removeprefix(exif.SEGMENT)
        try:
            orientation, image.exif = exif.reset_orientation(image.exif)
            if image.dpi is None and image.format in ("avif", "heif", "jpeg", "webp"):
                image.dpi = exif.parse(image.exif).dpi()
        except CODEC_ERRORS:
            image.notes.append("EXIF is damaged: kept unchanged, orientation not applied")
    already_upright = image.format in ("heif", "raw")
    # The container of an AVIF has the orientation, which Pillow puts into EXIF.
    overrules = already_upright or image.format == "avif"
    if image.xmp is not None and (orientation != 1 or overrules):
        image.xmp = xmp.reset_orientation(image.xmp)
    if orientation > 4:
        _exchange_axes(image)
    return 1 if already_upright else orientation


def fit_metadata(image: Image, kind: str) -> None:
    """Remove what shows the old picture, and convert the rest for the format, noting losses."""
    _refresh(image)
    held, lost = _HELD[kind], list[str]()
    if kind != image.format:
        lost += _leave_format(image, kind)
    _fit_dpi(image, kind)
    if "texts" not in held:
        if "EXIF" in held:
            _describe(image, kind)
        if image.texts and "comments" not in held:
            keywords = dict.fromkeys(keyword for keyword, _ in image.texts)
            lost.append(f"texts ({', '.join(keywords)})")
            image.texts = ()
    for name in reversed(_FIELDS):
        if name not in held and getattr(image, name.lower()) is not None:
            setattr(image, name.lower(), None)
            lost.insert(0, name)
    if lost:
        verb = "it is" if len(lost) == 1 and lost[0] in _FIELDS else "they are"
        image.losses.append(f"{kind} has no {', '.join(lost)}: {verb} left out")


def _exchange_axes(image: Image) -> None:
    """Exchange horizontal and vertical resolutions, for a picture that is turned by 90 degrees."""
    image.dpi = image.dpi and image.dpi[::-1]
    if image.format in _TURNED:
        image.extras = _TURNED[image.format](image.extras)
    if image.exif is not None:
        image.exif = exif.with_axes_exchanged(image.exif)


def _refresh(image: Image) -> None:
    """Remove thumbnails, which show the unrestored picture, and update its size."""
    height, width = image.pixels.shape[:2]
    if image.exif is not None:
        with suppress(*CODEC_ERRORS):
            image.exif = exif.without_thumbnail(image.exif)
            image.exif = exif.with_size(image.exif, width, height)
    if image.xmp is not None:
        image.xmp = xmp.with_size(xmp.without_thumbnails(image.xmp), width, height)


def _leave_format(image: Image, kind: str) -> list[str]:
    """Convert what the image's own format holds for another, and return the names of losses."""
    old, image.extras = image.extras, ()
    lost = []
    resources = b""
    if image.format == "tiff" and image.exif is not None:
        with suppress(*CODEC_ERRORS):
            block = exif.parse(image.exif)
            if resources := block.raw(PHOTOSHOP) or b"":
                del block.tags[PHOTOSHOP]
                image.exif = exif.build(block.order, block.tags) if block.tags else None
    elif image.format in _RESOURCES:
        resources = _RESOURCES[image.format](old)
    if photoshop.has_settings(resources):
        if kind in _WITH_RESOURCES:
            records = photoshop.of_iptc(image.iptc) if image.iptc else b""
            image.extras = _WITH_RESOURCES[kind](records + photoshop.settings(resources))
        elif kind == "tiff":
            with suppress(*CODEC_ERRORS):
                settings = photoshop.settings(resources)
                tag = Tag(BYTE, len(settings), settings)
                image.exif = exif.with_tags(_block(image), {PHOTOSHOP: tag})
        else:
            lost.append("Photoshop settings")
    if image.format == "jpeg":
        lost += [f"{name} segments" for name in jpeg.unknown(old)]
        if image.xmp is not None and xmp.extension_digest(image.xmp):
            extension = jpeg.extended_xmp(old, image.xmp)
            whole = xmp.merged(image.xmp, extension or b"")
            if whole is None:
                image.losses.append("the extended XMP is damaged: it is left out")
            image.xmp = whole or image.xmp
    if kind == "png" and image.iptc is not None:
        image.notes.append("png has no standard place for IPTC: kept as ImageMagick does")
    return lost


def _fit_dpi(image: Image, kind: str) -> None:
    """Leave out a resolution that does not fit, or write it to EXIF if that is its only place."""
    if image.dpi is None:
        return
    low, high = _DPI.get(kind, _RATIONAL)
    block = _parsed(image)
    if not all(low <= dots <= high for dots in image.dpi):
        if not (block.dpi() or (kind == image.format and image.extras)):
            numbers = dict.fromkeys(f"{dots:.0f}" for dots in image.dpi)
            image.losses.append(f"{' x '.join(numbers)} dpi do not fit {kind}: left out")
        image.dpi = None
    elif "dpi" not in _HELD[kind] and not exif.agrees(block, image.dpi):
        try:
            tags = exif.resolution_tags(block.order, image.dpi)
            image.exif = exif.with_tags(_block(image), tags)
        except CODEC_ERRORS:
            image.losses.append("dpi cannot be written to damaged EXIF: left out")


def _describe(image: Image, kind: str) -> None:
    """Move texts to EXIF: to tags of their own, or to the user comment, if these are free."""
    comments_only = all(keyword == "Comment" for keyword, _ in image.texts)
    if not image.texts or (comments_only and "comments" in _HELD[kind]):
        return
    with suppress(*CODEC_ERRORS):
        block = _block(image)
        old = exif.parse(block)
        tags, left = _choose_tags(image.texts, old)
        remarks = left
        if "comments" in _HELD[kind]:
            remarks = [pair for pair in left if pair[0] == _PARAMETERS]
        if remarks and not _has_user_comment(old):
            text = "\n".join(_with_keyword(*pair) for pair in remarks)
            comment = _user_comment(text, old.order)
            details = {USER_COMMENT: Tag(UNDEFINED, len(comment), comment)}
            tags[EXIF_IFD] = Tag(LONG, 1, Directory(old.order, details))
            left = [pair for pair in left if pair not in remarks]
        if tags:
            image.exif = exif.with_tags(block, tags)
        image.texts = tuple(left)
    if "comments" in _HELD[kind]:
        image.texts = tuple(("Comment", _with_keyword(*pair)) for pair in image.texts)


def _choose_tags(texts: _Texts, old: Directory) -> tuple[dict[int, Tag], list[tuple[str, str]]]:
    """Return tags for the texts that have one of their own, if it is free, and the other texts."""
    tags: dict[int, Tag] = {}
    left = []
    for keyword, text in sorted(texts, key=lambda pair: _RANKS.get(pair[0], len(_RANKS))):
        tag = _TAGS.get(keyword, 0)
        value = (_exif_date(text) if tag == DATE_TIME else text).encode()
        taken = tag in tags or (old.raw(tag) or b"").strip(_BLANK)
        if not tag or not value or taken:
            left.append((keyword, text))
        else:
            tags[tag] = Tag(ASCII, len(value) + 1, value + b"\0")
    return tags, left


def _has_user_comment(block: Directory) -> bool:
    """Return True if there is a user comment: cameras write blank ones."""
    details = block.tags[EXIF_IFD].value if EXIF_IFD in block.tags else None
    comment = details.raw(USER_COMMENT) if isinstance(details, Directory) else None
    return bool((comment or b"")[8:].strip(_BLANK))  # after the character code


def _with_keyword(keyword: str, text: str) -> str:
    return text if keyword in ("Comment", _PARAMETERS) else f"{keyword}: {text}"


def _exif_date(text: str) -> str:
    """Return a date in the form of EXIF, or nothing."""
    if match := _DATE.match(text):
        return "{}:{}:{} {}:{}:{}".format(*match.groups())
    fields = parsedate(text)  # of RFC 1123, which PNG suggests
    return "{:04}:{:02}:{:02} {:02}:{:02}:{:02}".format(*fields[:6]) if fields else ""


def _user_comment(text: str, order: str) -> bytes:
    """Encode a text with its character code (EXIF 2.32, 4.6.5)."""
    if text.isascii():
        return b"ASCII\0\0\0" + text.encode()
    return b"UNICODE\0" + text.encode("utf-16-be" if order == ">" else "utf-16-le")


def _block(image: Image) -> bytes:
    """Return the EXIF block, or an empty one."""
    return exif.build(">", {}) if image.exif is None else image.exif


def _parsed(image: Image) -> Directory:
    """Return the tags of the EXIF block, without any if it is missing or damaged."""
    with suppress(*CODEC_ERRORS):
        return exif.parse(_block(image))
    return Directory(">", {})
