"""Codes and groups of TIFF tags that the decoder and the encoder share.

Section numbers are those of TIFF 6.0 (Adobe, 1992).
"""

from ..blocks.tags import ICC, IPTC, SUB_IFDS, SUBFILE, XMP

REDUCED, PAGE, MASK = 1, 2, 4  # bits of SUBFILE (section 8)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR = 0, 1, 2, 6  # photometric interpretations
RAW, DEFLATE = 1, 8  # compressions
# Predictors: section 14; Adobe's Technical Note 3 of 2005.
NO_PREDICTOR, HORIZONTAL, FLOATING = 1, 2, 3
# Tags that a decoder needs: strips or tiles, CCITT's options, palette, inks, JPEG and YCbCr.
CODING = frozenset([*range(256, 260), 262, 266, 273, *range(277, 280), 284, 292, 293, 317, 320])
CODING |= {*range(322, 326), 332, 338, 339, 347, *range(512, 522), *range(529, 533)}
# Tags that the encoder sets, and tags of other pictures, which are not restored.
STORAGE = CODING | {SUBFILE, 255, 263, 280, 281, *range(288, 292), 318, 319, 321, SUB_IFDS, 334}
STORAGE |= {*range(340, 347), XMP, ICC, IPTC, 37724}


def unspecified_bands(count: int) -> str:
    """Return the subject of a remark on bands that are neither colour nor alpha."""
    bands, are = ("band", "is") if count == 1 else ("bands", "are")
    return f"{count} {bands} of unspecified meaning {are}"
