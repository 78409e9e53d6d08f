"""What is said about a picture: carried to every format that can hold it, or noted."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
from PIL.PngImagePlugin import PngInfo

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.codecs.blocks import exif as exif_blocks
from restormer_cli.imaging.image import Image
from tests.support.image_files import chunk, directory, encoded, exif, noise, png, tags, wide_gamut

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
    return hashlib.md5(data, usedforsecurity=False)


def segment(code, body):
    return bytes([0xFF, code]) + struct.pack(">H", len(body) + 2) + body


def resource(number, body):
    head = b"8BIM" + struct.pack(">HHI", number, 0, len(body))
    return head + body + b"\0" * (len(body) % 2)


def jpeg(*segments, **options):
    """Build a JPEG with more segments after JFIF's."""
    data = encoded(PIL.Image.fromarray(PIXELS), "JPEG", **options)
    return data[:20] + b"".join(segments) + data[20:]


def photoshop(*resources):
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
    return exif_blocks.parse(image.exif).tags[34665].value.raw(37510)


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
def test_iptc_and_comments_of_a_jpeg_cross_formats_and_return(kind):
    """IPTC is kept byte for byte, there and back; comments are kept too."""
    data = jpeg(photoshop(resource(0x0404, IPTC)), segment(0xFE, "grüß".encode()))
    written, image, notes = converted(data, kind)
    assert image.iptc == IPTC
    assert notes == (
        ["png has no standard place for IPTC: kept as ImageMagick does"] if kind == "png" else []
    )
    if kind == "tiff":
        assert user_comment(image) == b"UNICODE\0" + "grüß".encode("utf-16-be")
    else:
        assert image.texts == (("Comment", "grüß"),)
    assert converted(written, "jpeg")[1].iptc == IPTC


@pytest.mark.parametrize("kind", ["webp", "avif", "bmp"])
def test_what_a_format_cannot_hold_is_named_in_one_note(kind):
    """IPTC is left out with a note; a BMP's names all that is lost."""
    exif_segment = segment(0xE1, b"Exif\0\0" + exif())
    data = jpeg(exif_segment, photoshop(resource(0x0404, IPTC)), segment(0xFE, b"hello"))
    _, image, notes = converted(data, kind)
    if kind == "bmp":
        assert notes == ["bmp has no EXIF, IPTC, texts (Comment): they are left out"]
    else:
        assert notes == [f"{kind} has no IPTC: it is left out"]
        assert user_comment(image) == b"ASCII\0\0\0hello"
        assert exif_blocks.parse(image.exif).raw(315) == b"Jane\0"


@pytest.mark.parametrize("kind", ["jpeg", "webp", "tiff", "avif"])
def test_png_texts_go_to_the_tags_that_fit(kind):
    """Texts with a tag of their own go there; those of image generators to the user comment."""
    texts = {"Title": "T", "Author": "Jörg", "Copyright": "Nobody", "parameters": "Seed: 42"}
    texts["Creation Time"] = "Fri, 01 Mar 2024 10:11:12 GMT"
    _, image, notes = converted(text_png(*texts.items()), kind)
    assert notes == []
    block = exif_blocks.parse(image.exif)
    values = [block.raw(tag) for tag in (270, 315, 33432, 306)]
    assert values == [b"T\0", "Jörg\0".encode(), b"Nobody\0", b"2024:03:01 10:11:12\0"]
    assert user_comment(image) == b"ASCII\0\0\0Seed: 42"


def test_texts_do_not_replace_tags_and_all_offsets_of_exif_stay():
    """A tag that is there already stays; its text becomes a comment; maker notes do not move."""
    data = text_png(("Author", "Other"), ("Software", "S"), exif=b"Exif\0\0" + exif())
    _, image, notes = converted(data, "jpeg")
    assert notes == []
    assert image.texts == (("Comment", "Author: Other"),)
    main, details, gps = tags(image.exif)
    assert main == {**tags(exif())[0], 305: "S"}
    assert (details, gps) == tags(exif())[1:]
    note = b"\x01\xffmaker\x00note"
    assert image.exif.index(note) == exif().index(note)


def test_texts_that_find_no_place_are_named():
    """If the user comment is taken, a note names the texts that are lost, once each."""
    taken = exif_blocks.with_tags(
        exif(),
        {34665: (4, 1, exif_blocks.Directory("<", {37510: (7, 9, b"ASCII\0\0\0x", 0)}), 0)},
    )
    data = text_png(("prompt", "a"), ("prompt", "b"), ("Title", "T"), exif=b"Exif\0\0" + taken)
    _, image, notes = converted(data, "webp")
    assert notes == ["webp has no texts (prompt): they are left out"]
    assert user_comment(image) == b"ASCII\0\0\0x"


def test_long_texts_and_other_scripts_reach_a_jpeg():
    """A text over 64 kB is divided between comments, at whole characters."""
    text = "日本" * 40000
    _, image, notes = converted(text_png(("Comment", text)), "jpeg")
    assert notes == []
    assert "".join(value for _, value in image.texts) == text


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_comments_of_gifs_are_kept(kind):
    """The comments of a GIF are kept, also one that stands after the picture."""
    data = encoded(PIL.Image.fromarray(PIXELS).quantize(8), "GIF", comment=b"hello from 1998")
    data = data[:-1] + b"\x21\xfe\x03end\0" + data[-1:]
    _, image, notes = converted(data, kind)
    assert notes == []
    if kind == "webp":
        assert user_comment(image) == b"ASCII\0\0\0hello from 1998\nend"
    else:
        assert image.texts == (("Comment", "hello from 1998"), ("Comment", "end"))


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp", "avif", "bmp"])
def test_resolution_reaches_every_format(kind):
    """300 dpi are kept, in EXIF where a format has no other place."""
    written, image, notes = converted(text_png(dpi=(300, 300)), kind)
    assert notes == []
    assert image.dpi == pytest.approx((300, 300), rel=1e-5)
    if kind == "webp":
        assert PIL.Image.open(io.BytesIO(written)).getexif()[282] == 300


@pytest.mark.parametrize(
    ("kind", "dpi"),
    [
        ("jpeg", 70000),
        ("jpeg", 0.1),
        ("tiff", 5e9),
        ("webp", 5e9),
        ("png", 6e7),
        ("bmp", 6e7),
        *((kind, bad) for kind in ("png", "jpeg", "tiff", "bmp") for bad in (0, -72, float("nan"))),
    ],
)
def test_a_resolution_that_does_not_fit_is_left_out_with_a_note(kind, dpi):
    """Numbers outside a format's range, and invalid ones, are never wrapped or rounded to 0."""
    data, (notes,) = encode([Image(PIXELS, dpi=(dpi, dpi))], kind)
    assert notes == [f"{dpi:.0f} dpi do not fit {kind}: left out"]
    assert image_io.read_image(data).dpi in (None, (1.0, 1.0))


def test_damaged_exif_takes_no_resolution_and_no_texts():
    """What would go to EXIF is named in notes if EXIF is damaged."""
    image = Image(PIXELS, exif=b"II*\0junk", dpi=(300, 300), texts=(("Title", "T"),))
    _, (notes,) = encode([image], "webp")
    assert notes == [
        "dpi cannot be written to damaged EXIF: left out",
        "webp has no texts (Title): they are left out",
    ]


def test_a_tiff_holds_millions_of_dpi():
    """A TIFF's rational numbers hold a resolution of millions."""
    _, image, notes = converted(text_png(dpi=(5e6, 5e6)), "tiff")
    assert (notes, image.dpi) == ([], (5e6, 5e6))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["exif", "APP1"])
def test_the_orientation_in_a_raw_profile_is_applied(name, packed):
    """EXIF in ImageMagick's text turns the picture, and becomes EXIF in the output."""
    data = png(PIXELS, 2, 8, raw_profile(name, b"Exif\0\0" + exif(6), packed))
    image = image_io.read_image(data)
    np.testing.assert_array_equal(image.pixels, np.rot90(PIXELS, -1))
    assert image.exif == exif(1)
    for kind in ("jpeg", "png"):
        written, back, _ = converted(data, kind)
        assert tags(back.exif) == tags(exif())
        assert b"Raw profile" not in written


@pytest.mark.parametrize(
    ("name", "data", "field"),
    [
        ("iptc", IPTC, "iptc"),
        ("iptc", resource(0x0404, IPTC), "iptc"),
        ("8bim", resource(0x0404, IPTC), "iptc"),
        ("icc", wide_gamut(), "icc"),
        ("icm", wide_gamut(), "icc"),
        ("xmp", RDF % (b"", b""), "xmp"),
        ("APP1", XMP_START + RDF % (b"", b""), "xmp"),
    ],
)
def test_raw_profiles_are_read(name, data, field):
    """Each kind of ImageMagick's raw profiles is read, and goes to other formats."""
    expected = data.removeprefix(XMP_START) if field != "iptc" else IPTC
    source = png(PIXELS, 2, 8, raw_profile(name, data))
    assert getattr(image_io.read_image(source), field) == expected
    for kind in ("jpeg", "png", "tiff"):
        _, image, notes = converted(source, kind)
        assert (getattr(image, field), notes) == (expected, [])


def test_a_chunk_of_its_own_takes_precedence_over_a_raw_profile():
    """The orientation of eXIf counts, and not an older copy of it."""
    old = raw_profile("exif", b"Exif\0\0" + exif(6))
    image = image_io.read_image(png(PIXELS, 2, 8, old, chunk(b"eXIf", exif(1))))
    np.testing.assert_array_equal(image.pixels, PIXELS)


def test_a_text_that_inflates_without_end_is_left_out():
    """A compressed text over the limit is left out with a note, and damaged ones are too."""
    bomb = zlib.compress(bytes(2**26 + 1))
    chunks = [
        b"bomb\0\0" + bomb,
        b"cut\0\0" + zlib.compress(b"x" * 99)[:-6],
        b"good\0\0" + bomb[:0],
    ]
    chunks[2] += zlib.compress(b"y")
    image = image_io.read_image(png(PIXELS, 2, 8, *(chunk(b"zTXt", body) for body in chunks)))
    assert image.texts == (("good", "y"),)
    assert image.losses == [
        f"the text {name!r} is damaged or too long: it is left out" for name in ("bomb", "cut")
    ]


def profile_segments(profile, numbers, count):
    """Divide a profile into pieces of 200 bytes, and return the named ones."""
    pieces = {i: profile[(i - 1) * 200 :][:200] for i in range(1, -(-len(profile) // 200) + 1)}
    return [segment(0xE2, b"ICC_PROFILE\0" + bytes([i, count]) + pieces[i]) for i in numbers]


@pytest.mark.parametrize("case", ["twice", "whole twice", "out of order", "wrong count"])
def test_a_profile_whose_pieces_are_unambiguous_is_kept(case):
    """Repeated or unordered pieces, and wrong counts, do not lose the profile."""
    icc = wide_gamut()
    size = -(-len(icc) // 200)
    order = list(range(1, size + 1))
    segments = {
        "twice": profile_segments(icc, order * 2, size),
        "whole twice": [segment(0xE2, b"ICC_PROFILE\0\1\1" + icc)] * 2,
        "out of order": profile_segments(icc, order[::-1], size),
        "wrong count": profile_segments(icc, order, 1),
    }
    _, image, notes = converted(jpeg(*segments[case]), "jpeg")
    assert (image.icc, notes) == (icc, [])


def test_an_ambiguous_profile_is_left_out():
    """Two different profiles, or a missing piece, are noted."""
    icc, other = wide_gamut(), wide_gamut()[:-1] + b"\1"
    size = -(-len(icc) // 200)
    both = [segment(0xE2, b"ICC_PROFILE\0\1\1" + profile) for profile in (icc, other)]
    for segments in (both, profile_segments(icc, range(2, size + 1), size)):
        image = image_io.read_image(jpeg(*segments))
        assert image.icc is None
        assert [*image.losses, *image.notes] == ["the ICC profile is damaged: it is left out"]


def test_a_profile_that_no_jpeg_can_hold_is_left_out():
    """A profile of more than 255 segments is noted, and the picture written."""
    image = Image(PIXELS, icc=wide_gamut() + bytes(2**24))
    data, (notes,) = encode([image], "jpeg")
    assert notes == ["jpeg holds no ICC profile over 16 MB: it is left out"]
    assert image_io.read_image(data).icc is None


def test_thumbnails_go_and_the_rest_of_their_segments_stays():
    """JFIF's, Photoshop's, FlashPix's and XMP's thumbnails go; IPTC and settings stay."""
    rest = [resource(0x0404, IPTC), resource(1061, md5(IPTC).digest())]
    blocks = [resource(1033, b"old" + THUMBNAIL), resource(1036, THUMBNAIL), resource(1034, b"\1")]
    raw = bytes(range(30)) * 3
    jfif = segment(0xE0, b"JFIF\0\1\1\1" + struct.pack(">HH", 72, 72) + bytes([5, 6]) + raw)
    data = jpeg(
        segment(0xE0, b"JFXX\0\x10" + THUMBNAIL),
        segment(0xE1, XMP_START + RDF % (b'xmp:Label="Red"', THUMBNAILS)),
        segment(0xE2, b"FPXR\0\0" + THUMBNAIL),
        photoshop(rest[0], blocks[0], rest[1], *blocks[1:]),
        segment(0xEC, b"Ducky\0\1"),
    )
    data = data[:2] + jfif + data[20:]
    written, image, notes = converted(data, "jpeg")
    assert notes == []
    assert raw not in written
    assert THUMBNAIL not in written
    assert base64.b64encode(THUMBNAIL) not in written
    assert photoshop(*rest, blocks[2]) in written
    assert image.xmp == RDF % (b'xmp:Label="Red"', b"")
    assert (image.dpi, image.iptc) == ((72, 72), IPTC)


def test_segments_without_thumbnails_stay_byte_for_byte():
    """Photoshop's, comments and segments of unknown meaning are copied."""
    kept = [
        photoshop(resource(0x0404, IPTC), resource(1034, b"\1")),
        segment(0xE7, b"Qualcomm"),
        segment(0xFE, b"gr\xfc\xdf"),
    ]
    written, _, notes = converted(jpeg(*kept), "jpeg")
    assert notes == []
    assert b"".join(kept) in written
    assert converted(jpeg(*kept), "webp")[2] == [
        "webp has no IPTC, Photoshop settings, APP7 segments: they are left out"
    ]


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
def test_photoshop_settings_cross_formats(kind):
    """Settings are kept in the formats that hold them, with IPTC in one place and its digest."""
    rest = resource(1061, md5(IPTC).digest()) + resource(1034, b"\1")
    written, image, notes = converted(
        jpeg(photoshop(resource(0x0404, IPTC), resource(1036, THUMBNAIL), rest)), "tiff"
    )
    assert notes == []
    assert THUMBNAIL not in written
    assert written.count(IPTC) == written.count(rest) == 1
    written, image, notes = converted(written, kind)
    assert image.iptc == IPTC
    assert kind == "png" or written.count(IPTC) == written.count(rest) == 1
    assert converted(written, "jpeg")[0].count(resource(0x0404, IPTC) + rest) == 1


def test_pictures_in_exif_are_blanked():
    """The bytes of the thumbnail and of a preview in the maker note go, and offsets stay."""
    block = exif(maker_note=b"Nikon" + THUMBNAIL + b"after")
    first = struct.unpack_from("<H", block, 8)[0]
    link = 10 + 12 * first
    thumbnail = [(259, 3, 1, b"\1\0"), (273, 4, 1, b""), (279, 4, 1, struct.pack("<I", 90))]
    raw, start = bytes(range(90)), len(block)
    thumbnail[1] = (273, 4, 1, struct.pack("<I", start + len(directory("<", start, thumbnail))))
    block = block[:link] + struct.pack("<I", start) + block[link + 4 :]
    block += directory("<", start, thumbnail) + raw
    data, (notes,) = encode([Image(PIXELS, format="jpeg", exif=block)], "jpeg")
    assert notes == []
    assert raw not in data
    assert THUMBNAIL not in data
    image = image_io.read_image(data)
    assert image.exif.index(b"after") == block.index(b"after")


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
def test_sizes_and_resolutions_follow_the_turned_picture(kind):
    """EXIF's and XMP's sizes are those of the picture, and its resolutions change places."""

    def rational(number):
        return struct.pack("<II", number, 1)

    size = [(0xA002, 4, 1, struct.pack("<I", 12)), (0xA003, 3, 1, struct.pack("<H", 8))]
    main = [(256, 4, 1, struct.pack("<I", 12)), (257, 4, 1, struct.pack("<I", 8))]
    main += [(274, 3, 1, b"\6\0"), (282, 5, 1, rational(300)), (283, 5, 1, rational(150))]
    main += [(296, 3, 1, b"\2\0"), (34665, 4, 1, b"")]
    at = 8 + len(directory("<", 8, main))
    main[-1] = (34665, 4, 1, struct.pack("<I", at))
    block = b"II*\0\x08\0\0\0" + directory("<", 8, main) + directory("<", at, size)
    xmp = RDF % (b'exif:PixelXDimension="12" exif:PixelYDimension="8"', b"")
    data = jpeg(segment(0xE1, b"Exif\0\0" + block), segment(0xE1, XMP_START + xmp), dpi=(300, 150))
    _, image, notes = converted(data, kind)
    assert notes == []
    assert image.pixels.shape == (12, 8, 3)
    parsed = exif_blocks.parse(image.exif)
    details = parsed.tags[34665].value
    assert (details.integer(0xA002), details.integer(0xA003)) == (8, 12)
    if kind != "tiff":
        assert (parsed.integer(256), parsed.integer(257)) == (8, 12)
    assert parsed.dpi() == (150, 300)
    assert image.dpi == (150, 300)
    assert image.xmp == RDF % (b'exif:PixelXDimension="8" exif:PixelYDimension="12"', b"")


def test_the_density_of_a_turned_png_is_turned():
    """The pixel density in a PNG's own chunk changes places with the picture."""
    density = chunk(b"pHYs", struct.pack(">IIB", 300, 150, 0))
    source = png(PIXELS, 2, 8, density, chunk(b"eXIf", exif(6)))
    written, _, _ = converted(source, "png")
    assert chunk(b"pHYs", struct.pack(">IIB", 150, 300, 0)) in written


def test_blank_user_comments_of_cameras_are_replaced():
    """A user comment of blanks is free."""
    blank = exif_blocks.Tag(7, 20, b"ASCII\0\0\0" + b" " * 12)
    details = exif_blocks.Tag(4, 1, exif_blocks.Directory("<", {37510: blank}))
    block = exif_blocks.with_tags(exif(), {34665: details})
    data = text_png(("parameters", "Seed: 42"), exif=b"Exif\0\0" + block)
    _, image, notes = converted(data, "webp")
    assert notes == []
    assert user_comment(image) == b"ASCII\0\0\0Seed: 42"


def test_xmp_does_not_go_on_to_announce_a_video():
    """Once the video of a motion photo is left out, its output is an ordinary photo."""
    xmp = RDF % (b'GCamera:MotionPhoto="1"', b"")
    source = jpeg(segment(0xE1, XMP_START + xmp))
    assert image_io.read_image(source).losses == ["a video (motion photo): left out"]
    _, image, _ = converted(source, "jpeg")
    assert image.losses == []
    assert b'GCamera:MotionPhoto="0"' in image.xmp


def test_long_iptc_fills_several_segments():
    """IPTC over 64 kB is divided between segments of a JPEG, and joined again."""
    long = IPTC + b"\x1c\x02\x0d\xea\x60" + bytes(60000) + b"\x1c\x02\x0d\xea\x60" + bytes(60000)
    data, _ = encode([Image(PIXELS, iptc=long)], "jpeg")
    image = image_io.read_image(data)
    assert image.iptc == long
    assert image_io.read_image(encode([image], "jpeg")[0]).iptc == long


def test_an_exif_block_or_xmp_packet_that_stands_twice_counts_once():
    """Equal copies are one; of different ones, a note says which counts."""
    first, second = segment(0xE1, b"Exif\0\0" + exif(6)), segment(0xE1, b"Exif\0\0" + exif(3))
    image = image_io.read_image(jpeg(first, first))
    assert (image.exif, image.losses) == (exif(1), [])
    image = image_io.read_image(jpeg(first, second))
    assert image.exif == exif(1)
    assert image.losses == ["more EXIF blocks are left out: the first one counts"]
    packets = [segment(0xE1, XMP_START + RDF % (b"", body)) for body in (b"", b"<a/>")]
    assert image_io.read_image(jpeg(packets[0], packets[0])).losses == []
    image = image_io.read_image(jpeg(*packets))
    assert image.xmp == RDF % (b"", b"<a/>")
    assert image.losses == ["more XMP packets are left out: the last one counts"]


def extended_jpeg(extension, digest=None):
    """Build a JPEG whose XMP has an extension, its pieces out of order."""
    name = digest or md5(extension).hexdigest().upper().encode()
    pieces = [
        segment(
            0xE1,
            EXTENSION + name + struct.pack(">II", len(extension), at) + extension[at : at + 50000],
        )
        for at in range(0, len(extension), 50000)
    ]
    main = RDF % (b'xmpNote:HasExtendedXMP="%b"' % name, b"")
    return jpeg(segment(0xE1, XMP_START + main), *reversed(pieces))


def test_extended_xmp_reaches_other_formats_and_returns():
    """Extended XMP becomes one packet elsewhere, and over 64 kB is extended again in a JPEG."""
    source = extended_jpeg(RDF % (b'xmp:Nickname="%b"' % (b"n" * 70000), THUMBNAILS))
    png_data, image, notes = converted(source, "png")
    assert notes == []
    assert b"n" * 70000 in image.xmp
    assert b"HasExtendedXMP" not in image.xmp
    assert b"Thumbnails" not in image.xmp
    back, _, notes = converted(png_data, "jpeg")
    assert notes == []
    _, again, _ = converted(back, "webp")
    assert b"n" * 70000 in again.xmp
    same, _, notes = converted(source, "jpeg")
    assert notes == []
    assert b"Thumbnails" not in same
    assert b"n" * 70000 in converted(same, "png")[1].xmp


def test_damaged_extended_xmp_is_noted():
    """An extension that is not the one named is left out with a note; the main packet stays."""
    source = extended_jpeg(RDF % (b'xmp:Nickname="n"', b""), b"0" * 32)
    _, image, notes = converted(source, "png")
    assert notes == ["the extended XMP is damaged: it is left out"]
    assert image.xmp is not None


def test_thumbnails_of_a_tiff_and_misplaced_iptc_are_understood():
    """Photoshop's thumbnail in a TIFF goes; IPTC is read from resources and swapped integers."""
    buffer = io.BytesIO()
    resources = resource(1036, THUMBNAIL) + resource(0x0404, IPTC) + resource(1034, b"\1")
    PIL.Image.fromarray(PIXELS).save(buffer, "TIFF", tiffinfo={34377: resources})
    written, image, notes = converted(buffer.getvalue(), "tiff")
    assert (notes, image.iptc) == ([], IPTC)
    assert THUMBNAIL not in written
    assert resource(1034, b"\1") in written
    padded = IPTC + bytes(-len(IPTC) % 4)
    swapped = np.frombuffer(padded, "u4").byteswap().tobytes()
    buffer = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(buffer, "TIFF", tiffinfo={33723: swapped})
    assert image_io.read_image(buffer.getvalue()).iptc == padded


def test_pages_of_both_byte_orders_keep_their_exif():
    """The tags of all pages are kept in one TIFF, in the byte order of the first page."""
    images = [Image(PIXELS, exif=exif(1, order)) for order in "<>"]
    data, notes = encode(iter(images), "tiff", count=2)
    assert notes == [[], []]
    first, second = image_io.decode(data).images
    assert tags(first.exif) == tags(second.exif) == tags(exif())


@pytest.mark.parametrize("kind", ["avif", "heif", "webp"])
def test_a_grey_profile_does_not_stay_on_rgb(kind):
    """Grey with alpha becomes RGB in these formats, without its grey profile."""
    if kind == "heif":
        pytest.importorskip("pillow_heif")
    image = Image(noise(8, 8, 1), noise(8, 8, 1)[..., 0], icc=wide_gamut(b"GRAY"))
    data, (notes,) = encode([image], kind)
    assert "a grey ICC profile does not fit RGB: it is left out" in notes
    back = image_io.read_image(data)
    assert (back.icc, back.pixels.shape[2]) == (None, 3)


def test_metadata_of_jpeg_2000_is_read():
    """XMP, IPTC and EXIF in JPEG 2000 boxes are read."""
    data = encoded(PIL.Image.fromarray(PIXELS), "JPEG2000")
    xmp = RDF % (b"", b"")
    boxes = [
        (bytes.fromhex("be7acfcb97a942e89c71999491e3afac"), xmp),
        (bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38"), IPTC),
        (b"JpgTiffExif->JP2", exif()),
    ]
    at = data.index(b"jp2c") - 4
    added = b"".join(
        struct.pack(">I4s", 24 + len(body), b"uuid") + name + body for name, body in boxes
    )
    image = image_io.read_image(data[:at] + added + data[at:])
    assert (image.xmp, image.iptc, image.exif) == (xmp, IPTC, exif())


def test_metadata_in_long_and_last_boxes_of_jpeg_2000_is_read():
    """A box may have a length of 64 bits, and the last one none."""
    data = encoded(PIL.Image.fromarray(PIXELS), "JPEG2000")
    iptc = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38") + IPTC
    wide = struct.pack(">I4sQ", 1, b"uuid", 16 + len(iptc)) + iptc
    last = struct.pack(">I4s", 0, b"uuid") + b"JpgTiffExif->JP2" + exif()
    at = data.index(b"jp2c") - 4
    image = image_io.read_image(data[:at] + wide + data[at:] + last)
    assert (image.iptc, image.exif) == (IPTC, exif())


def test_metadata_of_photoshop_files_is_read():
    """XMP, IPTC and EXIF in a Photoshop file's resources are read."""
    xmp = RDF % (b"", b"")
    blocks = resource(1028, IPTC) + resource(1058, exif()) + resource(1060, xmp)
    data = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 8, 12, 8, 3) + bytes(4)
    data += struct.pack(">I", len(blocks)) + blocks + bytes(4) + bytes(2)
    image = image_io.read_image(data + PIXELS.transpose(2, 0, 1).tobytes())
    np.testing.assert_array_equal(image.pixels, PIXELS)
    assert (image.xmp, image.iptc, image.exif) == (xmp, IPTC, exif())


def test_content_credentials_are_left_out_with_a_note():
    """C2PA is bound to the old pixels, and goes with a note."""
    sources = (
        jpeg(segment(0xEB, b"JP\0\1\0\0\0\1jumbc2pa")),
        png(PIXELS, 2, 8, chunk(b"caBX", b"jumbc2pa")),
    )
    for source in sources:
        assert image_io.read_image(source).notes == [
            "content credentials (C2PA) of the old pixels are left out"
        ]
        assert b"c2pa" not in converted(source, "jpeg")[0]


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
def test_fields_of_an_image_are_written_without_a_source(kind):
    """IPTC and texts of an image that a program has made are written."""
    image = Image(PIXELS, format=kind, iptc=IPTC, texts=(("Comment", "made"),))
    data, _ = encode([image], kind)
    back = image_io.read_image(data)
    assert back.iptc == IPTC
    assert kind == "tiff" or back.texts == image.texts
    again, _ = encode([replace(back, pixels=PIXELS)], kind)
    assert image_io.read_image(again).texts == back.texts
