"""A transformer block in three Triton kernels: B H W C, channels innermost, sums in fp32.

    _pointwise  LayerNorm and 1x1 convolution: a map of C channels to one of D.
    _gram       depthwise 3x3 of queries and keys, and their sums over pixels. Each program writes
                a part of its own; these are added in a fixed order, so that results repeat.
    _finish     depthwise 3x3 of the values, or of gate and value with GELU and their product, then
                a matrix, plus the block's input.

PyTorch's functions move about 75 C values per pixel and block through memory, these kernels 24 C.
All maps are contiguous. A program of the last two computes tile after tile of pixels. Pixels beyond
the image are zeros for the depthwise convolution, not what the 1x1 makes of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ...network import BlockWeights, Projection, Statistics
from ..blocking import Region
from ..fusion.passes import KINDS, FusedPasses
from ..tlc import Mixing
from .launch import launch

SHARED = 32 << 10
"""Bytes of normalised pixels that a program of `_pointwise` keeps, and twice those of the weights
beside them. GPUs have 64 to 227 KiB of shared memory for each program."""

PROGRAMS = 4
"""Programs for each multiprocessor. Each of them takes several tiles."""

MULTIPLE = 16
"""Hidden channels are padded with zeros to a multiple of this, so that loads are of 128 bits."""

SIZES = ("pixels", "rows", "columns", "margin", "r0", "r1", "c0", "c1", "heads")
"""Arguments whose values Triton must not specialise kernels for. It would compile them again for
images whose sides are, or are not, multiples of 16, and for a margin of 1."""


# --- kernels -------------------------------------------------------------------------------------
# fmt: off


@triton.jit
def _dot(a, b):
    """Return a product of matrices in fp32; three products in TF32 are within a few ulp of it."""
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit(do_not_specialize=SIZES)
def _pointwise(
    x, y, weight, bias, pixels, D,
    C: tl.constexpr, CP: tl.constexpr, CHUNK: tl.constexpr, PIXELS: tl.constexpr,
    CENTRED: tl.constexpr, BIAS: tl.constexpr,
):
    """Normalise PIXELS pixels of C channels, as `network.normalised`, and project them to D."""
    i = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    c, d = tl.arange(0, CP), tl.arange(0, CHUNK)
    present, used = (i < pixels)[:, None], (c < C)[None, :]
    stored = tl.load(x + i[:, None] * C + c[None, :], present & used, 0.0)
    value = stored.to(tl.float32)
    deviation = tl.where(used, value - (tl.sum(value, 1) / C)[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(deviation * deviation, 1) / C + 1e-5)
    if CENTRED:
        value = deviation
    normal = (value * rstd[:, None]).to(stored.dtype)
    for first in range(0, D, CHUNK):
        row = first + d
        w = tl.load(weight + row[None, :] * C + c[:, None],
                    (c < C)[:, None] & (row < D)[None, :], 0.0)
        z = _dot(normal, w)
        if BIAS:
            z += tl.load(bias + row, row < D, 0.0).to(tl.float32)[None, :]
        tl.store(y + i[:, None] * D + row[None, :], z.to(stored.dtype),
                 present & (row < D)[None, :])


@triton.jit
def _depthwise(
    y, weight, bias, top, left, columns, r0, r1, c0, c1, count, stride,
    TH: tl.constexpr, TW: tl.constexpr, CHUNK: tl.constexpr, BIAS: tl.constexpr,
):
    """Return the depthwise 3x3 at a tile, TH TW by CHUNK, of which `count` channels exist.

    `y`, `weight` (9 by `stride`) and `bias` point to the first channel; pixels have `stride` of
    them. Three taps at a time: nine would not fit the registers. For the same reason, offsets in
    the tile have 32 bits.
    """
    i, d = tl.arange(0, TH * TW), tl.arange(0, CHUNK)
    used = d < count
    y += (top.to(tl.int64) * columns + left) * stride
    total = tl.zeros((TH * TW, CHUNK), tl.float32)
    if BIAS:
        total += tl.load(bias + d, used, 0.0).to(tl.float32)[None, :]
    for down in range(3):
        row = i // TW + down - 1
        within = (top + row >= r0) & (top + row < r1)
        for across in tl.static_range(3):
            column = i % TW + across - 1
            inside = within & (left + column >= c0) & (left + column < c1)
            at = (row * columns + column) * stride
            v = tl.load(y + at[:, None] + d[None, :], inside[:, None] & used[None, :], 0.0)
            tap = tl.load(weight + (down * 3 + across) * stride + d, used, 0.0)
            total += v.to(tl.float32) * tap.to(tl.float32)[None, :]
    return total


@triton.jit(do_not_specialize=SIZES)
def _gram(
    y, gram, squares, weight, bias, rows, columns, margin, r0, r1, c0, c1, heads, D,
    C: tl.constexpr, CH: tl.constexpr, CHUNK: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr,
    BIAS: tl.constexpr,
):
    """Write a program's part of the sums of one head: CH CH and 2 CH.

    `y` has D channels, of which the first C are queries and the next C keys.
    """
    head, program, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    programs = tl.num_programs(1)
    across = tl.cdiv(columns - 2 * margin, TW)
    tiles = tl.cdiv(rows - 2 * margin, TH) * across
    i, d = tl.arange(0, TH * TW), tl.arange(0, CHUNK)
    y += image.to(tl.int64) * rows * columns * D
    q0, k0 = head * CH, C + head * CH
    sums = tl.zeros((CHUNK, CHUNK), tl.float32)
    of_q, of_k = tl.zeros((CHUNK,), tl.float32), tl.zeros((CHUNK,), tl.float32)
    for tile in range(program, tiles, programs):
        top, left = margin + tile // across * TH, margin + tile % across * TW
        q = _depthwise(y + q0, weight + q0, bias + q0, top, left, columns, r0, r1, c0, c1, CH, D,
                       TH, TW, CHUNK, BIAS)
        k = _depthwise(y + k0, weight + k0, bias + k0, top, left, columns, r0, r1, c0, c1, CH, D,
                       TH, TW, CHUNK, BIAS)
        # A tile may reach beyond the region.
        there = ((top + i // TW < rows - margin) & (left + i % TW < columns - margin))[:, None]
        q = tl.where(there, q, 0.0).to(y.dtype.element_ty)
        k = tl.where(there, k, 0.0).to(y.dtype.element_ty)
        sums += _dot(tl.trans(q), k)
        of_q += tl.sum(q.to(tl.float32) * q.to(tl.float32), 0)
        of_k += tl.sum(k.to(tl.float32) * k.to(tl.float32), 0)
    own = (image * programs + program).to(tl.int64) * heads + head
    used = d < CH
    tl.store(gram + own * CH * CH + d[:, None] * CH + d[None, :], sums,
             used[:, None] & used[None, :])
    tl.store(squares + own * 2 * CH + d, of_q, used)
    tl.store(squares + own * 2 * CH + CH + d, of_k, used)


@triton.jit(do_not_specialize=SIZES)
def _finish(
    y, x, out, weight, bias, matrix, matrix_bias, rows, columns, margin, r0, r1, c0, c1, D,
    per_image, C: tl.constexpr, CP: tl.constexpr, CHUNK: tl.constexpr, TH: tl.constexpr,
    TW: tl.constexpr, GATED: tl.constexpr, BIAS: tl.constexpr, MATRIX_BIAS: tl.constexpr,
):
    """Write x plus a matrix, C D, times D values at each pixel without the margin.

    `y` has D channels; GATED: it has 2 D, and the first D of them make the GELU's factors.
    `per_image` is the distance of the images' matrices, 0 if there is one for all.
    """
    program, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    across = tl.cdiv(columns - 2 * margin, TW)
    tiles = tl.cdiv(rows - 2 * margin, TH) * across
    i, c, d = tl.arange(0, TH * TW), tl.arange(0, CP), tl.arange(0, CHUNK)
    stride = 2 * D if GATED else D
    y += image * rows * columns * stride
    x += image * rows * columns * C
    out += image * (rows - 2 * margin) * (columns - 2 * margin) * C
    matrix += image * per_image
    for tile in range(program, tiles, tl.num_programs(0)):
        top, left = margin + tile // across * TH, margin + tile % across * TW
        total = tl.zeros((TH * TW, CP), tl.float32)
        for first in range(0, D, CHUNK):
            v = _depthwise(y + first, weight + first, bias + first, top, left, columns, r0, r1, c0,
                           c1, D - first, stride, TH, TW, CHUNK, BIAS)
            if GATED:
                gelu = 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))
                at = D + first
                v = gelu * _depthwise(y + at, weight + at, bias + at, top, left, columns, r0, r1,
                                      c0, c1, D - first, stride, TH, TW, CHUNK, BIAS)
            m = tl.load(matrix + c[None, :] * D + (first + d)[:, None],
                        (c < C)[None, :] & (first + d < D)[:, None], 0.0)
            total += _dot(v.to(m.dtype), m)
        if MATRIX_BIAS:
            total += tl.load(matrix_bias + c, c < C, 0.0).to(tl.float32)[None, :]
        row, column = top + i // TW, left + i % TW
        there = ((row < rows - margin) & (column < columns - margin))[:, None] & (c < C)[None, :]
        at = (row.to(tl.int64) * columns + column) * C
        total += tl.load(x + at[:, None] + c[None, :], there, 0.0).to(tl.float32)
        at = ((row - margin).to(tl.int64) * (columns - 2 * margin) + column - margin) * C
        tl.store(out + at[:, None] + c[None, :], total.to(x.dtype.element_ty), there)


# fmt: on
# --- calls ---------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """Rows and columns of a map, a margin to leave out, and the part of it inside the image."""

    rows: int
    columns: int
    margin: int
    first_row: int
    last_row: int  # excluded
    first_column: int
    last_column: int  # excluded

    @classmethod
    def of(cls, x: Tensor, region: Region, size: tuple[int, int], margin: int) -> Frame:
        """Return the frame of a region of an image of this size; `x` is the region and its halo."""
        halo = (x.shape[1] - (region.bottom - region.top)) // 2
        inside: list[int] = []
        for start, side, length in zip((region.top, region.left), size, x.shape[1:3], strict=True):
            inside += max(0, halo - start), min(length, halo - start + side)
        return cls(x.shape[1], x.shape[2], margin, *inside)


class Layer(NamedTuple):
    """A projection as the kernels read it."""

    weight: Tensor  # D C
    bias: Tensor | None  # D
    depthwise: Tensor  # 9 D
    depthwise_bias: Tensor | None  # D

    @classmethod
    def of(cls, *parts: Projection, dtype: torch.dtype) -> Layer:
        """Join projections, each padded to a multiple of channels."""

        def joined(*tensors: Tensor | None) -> Any:
            padded = [_padded(t, 0, dtype) for t in tensors if t is not None]
            return torch.cat(padded) if padded else None

        weight, bias, depthwise, depthwise_bias = map(joined, *parts)
        taps = depthwise.flatten(1).T.contiguous()
        return cls(weight, bias, taps, depthwise_bias)


@dataclass(frozen=True)
class TritonKernels:
    """The kernels, for blocks of any width."""

    @property
    def instructions(self) -> str:
        """What runs the kernels, in words."""
        return f"Triton {triton.__version__}"

    def supports(self, dtype: torch.dtype) -> bool:
        """Return True for every type of features."""
        return dtype in KINDS

    def fits(self, channels: int, heads: int) -> bool:
        """Return True: channels are padded in registers."""
        return channels % heads == 0

    def block(self, w: BlockWeights, dtype: torch.dtype) -> TritonBlock:
        """Return a block with these weights in fp32."""
        return TritonBlock(w, dtype)


class TritonBlock(FusedPasses):
    """A transformer block whose two passes over a map are Triton kernels.

    The halo of a region may also be absent if the region is the whole map.
    """

    def __init__(self, w: BlockWeights, dtype: torch.dtype) -> None:
        super().__init__(w)
        self._dtype, self._centred, self._heads = dtype, w.centred, w.heads
        self._qk, self._v = (Layer.of(p, dtype=dtype) for p in (w.qk, w.v))
        self._gates = Layer.of(w.gate, w.value, dtype=dtype)
        self._ffn_out = _padded(w.ffn_out.weight, 1, dtype)
        self._ffn_bias, self._mix_bias = w.ffn_out.bias, w.attention_out.bias

    def sums(self, x: Tensor, region: Region, size: tuple[int, int]) -> Statistics:
        """See `FusedPasses.sums`."""
        b, c, heads = len(x), x.shape[3], self._heads
        y = self._projected(x, self._qk)
        halo = (x.shape[1] - (region.bottom - region.top)) // 2
        frame = Frame.of(x, region, size, halo)
        ch = c // heads
        chunk = _power(ch)
        height = 8 if chunk * x.itemsize <= 256 else 4  # shared memory holds a tile of q and of k
        tiles = _tiles(frame, height, 8)
        programs = min(tiles, _programs(x.device))
        gram = x.new_empty(b, programs, heads, ch, ch, dtype=torch.float32)
        squares = x.new_empty(b, programs, heads, 2, ch, dtype=torch.float32)
        launch(
            _gram,
            (heads, programs, b),
            y,
            gram,
            squares,
            *_taps(self._qk),
            *frame,
            heads,
            len(self._qk.weight),
            C=c,
            CH=ch,
            CHUNK=chunk,
            TH=height,
            TW=8,
            BIAS=self._qk.depthwise_bias is not None,
            num_warps=4 if chunk <= 64 else 8,
            num_stages=1,
        )
        return Statistics(gram.sum(1), squares.sum(1).transpose(1, 2))

    def packed(self, matrices: Tensor) -> Tensor:
        """See `FusedPasses.packed`."""
        return _padded(matrices, 2, self._dtype)

    def finish(
        self, x: Tensor, mixing: Mixing[Tensor], region: Region, size: tuple[int, int]
    ) -> Tensor:
        """See `FusedPasses.finish`; the map has a single window."""
        (((_, matrices),),) = mixing.pieces(region)
        halo = (x.shape[1] - (region.bottom - region.top)) // 4  # of each depthwise convolution
        frame = Frame.of(x, region, size, halo)
        x = self._added(x, self._v, matrices, self._mix_bias, frame, gated=False)
        frame = Frame.of(x, region, size, halo)
        return self._added(x, self._gates, self._ffn_out, self._ffn_bias, frame, gated=True)

    def _projected(self, x: Tensor, layer: Layer) -> Tensor:
        """Normalise and project B H W C to B H W D."""
        d, c = layer.weight.shape
        if x.shape[3] != c or x.dtype != self._dtype or not x.is_contiguous():
            raise ValueError(f"a map is {tuple(x.shape)} of {x.dtype}, not contiguous with {c}")
        y = x.new_empty(*x.shape[:3], d)
        pixels, width = y.numel() // d, _power(c)
        block, chunk = (
            max(16, min(64, size // (width * x.itemsize))) for size in (SHARED, SHARED // 2)
        )
        launch(
            _pointwise,
            (triton.cdiv(pixels, block),),
            x,
            y,
            layer.weight,
            _or(layer.bias, y),
            pixels,
            d,
            C=c,
            CP=width,
            CHUNK=chunk,
            PIXELS=block,
            CENTRED=self._centred,
            BIAS=layer.bias is not None,
            num_warps=4 if c <= 128 else 8,
            num_stages=2,
        )
        return y

    def _added(
        self,
        x: Tensor,
        layer: Layer,
        matrix: Tensor,
        bias: Tensor | None,
        frame: Frame,
        *,
        gated: bool,
    ) -> Tensor:
        """Return x plus a matrix, C D or B C D, times the layer's values, without the margin."""
        y = self._projected(x, layer)
        b, c, d, margin = len(x), x.shape[3], matrix.shape[-1], frame.margin
        out = x.new_empty(b, frame.rows - 2 * margin, frame.columns - 2 * margin, c)
        height, width, warps = _tile(c)
        programs = min(_tiles(frame, height, width), _programs(x.device))
        launch(
            _finish,
            (programs, b),
            y,
            x,
            out,
            *_taps(layer),
            matrix,
            _or(bias, x),
            *frame,
            d,
            matrix.stride(0) if matrix.ndim == 3 else 0,
            C=c,
            CP=_power(c),
            CHUNK=32,
            TH=height,
            TW=width,
            GATED=gated,
            BIAS=layer.depthwise_bias is not None,
            MATRIX_BIAS=bias is not None,
            num_warps=warps,
            num_stages=1,
        )
        return out


def _padded(t: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
    """Cast a tensor, and pad an axis with zeros to a multiple of `MULTIPLE`."""
    missing = -t.shape[axis] % MULTIPLE
    return F.pad(t, (0, 0) * (t.ndim - 1 - axis) + (0, missing)).to(dtype).contiguous()


def _taps(layer: Layer) -> tuple[Tensor, Tensor]:
    return layer.depthwise, _or(layer.depthwise_bias, layer.depthwise)


def _or(bias: Tensor | None, other: Tensor) -> Tensor:
    """Return a tensor to point to where there is no bias; it is not read."""
    return other if bias is None else bias


def _power(n: int) -> int:
    """Return the size of an axis in registers, and at least the least of a product."""
    return max(16, int(triton.next_power_of_2(n)))


def _tile(channels: int) -> tuple[int, int, int]:
    """Return rows and columns of a tile of `_finish`, and warps; none spills on sm_90."""
    return (8, 8, 4) if channels <= 96 else (8, 8, 8) if channels <= 256 else (4, 8, 8)


def _tiles(frame: Frame, height: int, width: int) -> int:
    sides = frame.rows - 2 * frame.margin, frame.columns - 2 * frame.margin
    return int(triton.cdiv(sides[0], height) * triton.cdiv(sides[1], width))


@cache
def _programs(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).multi_processor_count) * PROGRAMS
    return 2  # in Triton's interpreter: fewer than there are tiles, to test the loops
