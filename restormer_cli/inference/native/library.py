"""The compiled library: packing of weights, and the two passes over a feature map."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from ctypes import POINTER, Array, Structure, byref, c_int, c_size_t, c_ssize_t, c_void_p
from itertools import accumulate
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...network import BlockWeights, Projection, Statistics
from ..blocking import Edges, Map, Part, Region, StripRunner
from ..fusion.passes import KINDS, FusedPasses
from ..tlc import Mixing

MULTIPLE = 16
"""Channels, also those of a head, must be a multiple of this; hidden channels are padded to one."""

K_MULTIPLE = 32
"""In bf16, the columns of matrices are padded to a multiple of this (`padded` in block.cpp)."""

TYPES = {dtype: KINDS[dtype] for dtype in (torch.float32, torch.bfloat16)}
"""Types of features, and their names in block.cpp."""


class Layer(Structure):
    """`Layer` in block.cpp."""

    _fields_ = [(name, c_void_p) for name in ("matrix", "bias", "depthwise")]

    @classmethod
    def of(cls, *tensors: Tensor) -> Layer:
        """Return pointers to the memory of tensors, which must be kept."""
        return cls(*(tensor.data_ptr() for tensor in tensors))


class Weights(Structure):
    """`Weights` in block.cpp."""

    _fields_ = [
        *((name, c_int) for name in ("channels", "hidden", "heads", "centred")),
        *((name, Layer) for name in ("qk", "v", "gates", "out")),
    ]


class Frame(Structure):
    """Rows and columns of a block with its halo, and how many of them are outside the image."""

    _fields_ = [(name, c_int) for name in ("rows", "columns", "top", "bottom", "left", "right")]

    @classmethod
    def of(cls, region: Region, halo: int, size: tuple[int, int]) -> Frame:
        """Return the frame of a region in a map of this height and width."""
        (top, bottom, left, right), (height, width) = region, size
        return cls(
            *(bottom - top + 2 * halo, right - left + 2 * halo),
            *(max(0, halo - top), max(0, bottom + halo - height)),
            *(max(0, halo - left), max(0, right + halo - width)),
        )


class Group(Structure):
    """`Group` in block.cpp."""

    _fields_ = [
        ("pixels", c_void_p),
        *((name, c_int) for name in ("first_channel", "channels")),
        ("row", c_ssize_t),
    ]


Groups = Group * 2
"""`Map` in block.cpp."""


class Segments(Structure):
    """`Segments` in block.cpp."""

    _fields_ = [
        ("bias", c_void_p),
        ("matrices", POINTER(c_void_p)),
        *((name, POINTER(c_int)) for name in ("bottoms", "rights")),
        ("across", c_int),
    ]


class Job(Structure):
    """`Job` in block.cpp."""

    _fields_ = [
        *((name, Groups) for name in ("x", "out")),
        ("mix", Segments),
        *((name, c_void_p) for name in ("gram", "squares", "scratch")),
        ("frame", Frame),
    ]


class Library:
    """A compiled block.cpp.

    Raises:
        OSError: the file cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self.functions = ctypes.CDLL(str(path))
        self.lanes: int = self.functions.lanes()

    def supports(self, dtype: torch.dtype) -> bool:
        """Return True if the library has functions for features of this type."""
        return dtype in TYPES and hasattr(self.functions, f"sums_{TYPES[dtype]}")

    @property
    def instructions(self) -> str:
        """Instruction sets that the library uses, in words."""
        width = {16: "AVX-512", 8: "AVX2"}.get(self.lanes, f"{32 * self.lanes}-bit vectors")
        half = ["AMX" if self.functions.amx() else "bf16"] if self.supports(torch.bfloat16) else []
        return " and ".join([width, *half])

    def function(self, name: str, dtype: torch.dtype) -> Callable[..., int]:
        """Return a pass of the library; without scratch memory, it returns the bytes it needs."""
        function = self.functions[f"{name}_{TYPES[dtype]}"]
        function.argtypes, function.restype = [POINTER(Weights), POINTER(Job)], c_size_t
        return function

    def fits(self, channels: int, heads: int) -> bool:
        """See `fits`."""
        return fits(channels, heads)

    def block(self, w: BlockWeights, dtype: torch.dtype) -> FusedBlock:
        """Return a block with these weights in fp32, of a width that fits."""
        return FusedBlock(self, w, dtype)


def fits(channels: int, heads: int) -> bool:
    """Return True if block.cpp supports a block with these channels and heads."""
    return channels % MULTIPLE == 0 and channels // heads % MULTIPLE == 0


class FusedBlock(FusedPasses):
    """A transformer block whose two passes over a map run in the library.

    Args:
        library: supports `dtype`.
        w: weights of a width that `fits`.
        dtype: type of the map.
    """

    def __init__(self, library: Library, w: BlockWeights, dtype: torch.dtype) -> None:
        super().__init__(w)
        self._passes = {name: library.function(name, dtype) for name in ("sums", "finish")}
        self._scratch_bytes: dict[tuple[str, int, int], int] = {}  # by pass, rows and columns
        self._lanes, self._dtype = library.lanes, dtype
        self._channels, hidden = w.ffn_out.weight.shape
        missing = -hidden % MULTIPLE
        qk = [t if t is None else t.chunk(2) for t in w.qk]
        q, k = (Projection(*(t and t[i] for t in qk)) for i in (0, 1))  # type: ignore[arg-type]
        self._tensors = [  # `_weights` points to them
            self._projection(q, k),
            self._projection(w.v),
            self._projection(w.gate, w.value, missing=missing),
            (
                self._packed(F.pad(w.ffn_out.weight, (0, missing))),
                _vector(w.ffn_out.bias, self._channels),
            ),
        ]
        layers = [Layer.of(*tensors) for tensors in self._tensors]
        self._weights = Weights(self._channels, hidden + missing, w.heads, w.centred, *layers)
        self._mix_bias = _vector(w.attention_out.bias, self._channels)

    def collect(
        self, run: StripRunner, x: Map, edges: Edges
    ) -> Iterator[tuple[Region, Statistics]]:
        """Yield regions of a map, which are read where they are, and their statistics."""
        if not _aligned(x):
            return super().collect(run, x, edges)
        height, width = x[0].shape[1:3]

        def sums(part: Part, region: Region) -> Statistics:
            return self._sums_of(part, region, (height, width))

        return run.visit(x, sums, run.shape(x).reading, edges)

    def overwrite(self, run: StripRunner, x: Map, mixing: Mixing[Tensor]) -> None:
        """Replace a map by the result, which is written to the free rows next to it, if any."""
        height, width = x[0].shape[1:3]

        def finish(result: Part, part: Part, region: Region) -> None:
            self._finish_into(result, part, mixing, region, (height, width))

        if not _aligned(x) or not run.move(x, finish, self.HALO):
            super().overwrite(run, x, mixing)

    def sums(self, x: Tensor, region: Region, size: tuple[int, int]) -> Statistics:
        """See `FusedPasses.sums`."""
        halo = region.expanded(1)
        return self._sums_of(Part([x], halo.top, halo.left), region, size)

    def finish(
        self, x: Tensor, mixing: Mixing[Tensor], region: Region, size: tuple[int, int]
    ) -> Tensor:
        """See `FusedPasses.finish`."""
        out = x.new_empty(len(x), x.shape[1] - 4, x.shape[2] - 4, self._channels)
        halo = region.expanded(2)
        target = Part([out], region.top, region.left)
        self._finish_into(target, Part([x], halo.top, halo.left), mixing, region, size)
        return out

    def _sums_of(self, part: Part, region: Region, size: tuple[int, int]) -> Statistics:
        """Return the statistics of a region, which lies in a part with a halo of one pixel."""
        frame = Frame.of(region, 1, size)
        inputs = self._groups(part, region, 1, size)
        heads, channels = self._weights.heads, self._channels // self._weights.heads
        gram = torch.zeros(len(inputs), heads, channels, channels)
        squares = torch.zeros(len(inputs), 2, heads, channels)
        for x, g, s in zip(inputs, gram, squares, strict=True):
            job = Job(x=x, gram=g.data_ptr(), squares=s.data_ptr(), frame=frame)
            self._run("sums", job)
        return Statistics(gram, squares)

    def _finish_into(
        self, out: Part, part: Part, mixing: Mixing[Tensor], region: Region, size: tuple[int, int]
    ) -> None:
        """Write the result for a region, which lies in a part with a halo of two pixels."""
        frame = Frame.of(region, 2, size)
        inputs = self._groups(part, region, 2, size)
        results = self._groups(out, region, 0, size)
        attended = region.expanded(1)  # the halo of the feed-forward network gets attention, too
        pieces = mixing.pieces(attended)
        bottoms = [row[0][0].bottom - attended.top for row in pieces]
        rights = [piece.right - attended.left for piece, _ in pieces[0]]
        matrices = [packed for row in pieces for _, packed in row]
        for image, (x, result) in enumerate(zip(inputs, results, strict=True)):
            mix = Segments(
                self._mix_bias.data_ptr(),
                (c_void_p * len(matrices))(*(packed[image].data_ptr() for packed in matrices)),
                (c_int * len(bottoms))(*bottoms),
                (c_int * len(rights))(*rights),
                len(rights),
            )
            self._run("finish", Job(x=x, out=result, mix=mix, frame=frame))

    def _groups(
        self, part: Part, region: Region, halo: int, size: tuple[int, int]
    ) -> list[Array[Group]]:
        """Return the groups of each image, from the first pixel of a region's halo inside it on.

        Raises:
            ValueError: a part does not contain the region and its halo, or has another type or
                order in memory; the library would access any memory.
        """
        inside = region.expanded(halo).within(Region(0, size[0], 0, size[1]))
        channels = [group.shape[3] for group in part.groups]
        covered = inside.within(part.region) == inside and sum(channels) == self._channels
        same_size = len({group.shape[:3] for group in part.groups}) == 1
        readable = _aligned(part.groups) and all(
            group.dtype == self._dtype and group.stride()[2:] == (group.shape[3], 1)
            for group in part.groups
        )
        if not (covered and same_size and readable):
            raise ValueError(
                f"channels {channels} of {part.groups[0].dtype} in {part.region} do not contain "
                f"{self._channels} of {self._dtype} in {inside}"
            )
        top, _, left, _ = inside.relative_to(part.top, part.left)
        first_channels = [0, *accumulate(channels[:-1])]

        def groups(image: int) -> Array[Group]:
            result = Groups()
            for i, (first, group) in enumerate(zip(first_channels, part.groups, strict=True)):
                first_pixel = (image, top, left)
                offset = sum(n * step for n, step in zip(first_pixel, group.stride(), strict=False))
                pixels = group.data_ptr() + offset * group.itemsize
                result[i] = Group(pixels, first, group.shape[3], group.stride(1))
            return result

        return [groups(image) for image in range(len(part.groups[0]))]

    def _run(self, name: str, job: Job) -> None:
        frame = (name, job.frame.rows, job.frame.columns)
        function = self._passes[name]
        if frame not in self._scratch_bytes:
            self._scratch_bytes[frame] = function(byref(self._weights), byref(job))
        # PyTorch's allocator reports a lack of memory as everywhere else.
        scratch = torch.empty(self._scratch_bytes[frame], dtype=torch.uint8)
        job.scratch = scratch.data_ptr()
        function(byref(self._weights), byref(job))

    def _projection(self, *parts: Projection, missing: int = 0) -> tuple[Tensor, ...]:
        """Pack projections whose vectors alternate: the matrix, its bias, the convolution."""

        def alternate(rows: list[Tensor]) -> Tensor:
            vectors = [F.pad(t, (0, 0, 0, missing)).unflatten(0, (-1, self._lanes)) for t in rows]
            return torch.stack(vectors, 1).flatten(0, 2)

        matrix = alternate([p.pointwise for p in parts])
        bias = alternate([_vector(p.pointwise_bias, len(p.pointwise))[:, None] for p in parts])
        kernels = [p.depthwise.flatten(1) for p in parts]
        biases = [_vector(p.depthwise_bias, len(p.depthwise))[:, None] for p in parts]
        depthwise = alternate([torch.cat(pair, 1) for pair in zip(kernels, biases, strict=True)])
        by_vector = depthwise.float().unflatten(0, (-1, self._lanes)).mT.contiguous()
        return self._packed(matrix), bias.float().contiguous(), by_vector

    def packed(self, matrices: Tensor) -> Tensor:
        """See `FusedPasses.packed`."""
        return torch.stack([self._packed(matrix) for matrix in matrices])

    def _packed(self, matrix: Tensor) -> Tensor:
        """Pack N K for `add_product`: blocks of two vectors of N; rows of K, in bf16 in pairs."""
        half = self._dtype == torch.bfloat16
        padded = F.pad(matrix, (0, -matrix.shape[1] % K_MULTIPLE if half else 0)).to(self._dtype)
        pairs = padded.unflatten(1, (-1, 2 if half else 1))  # N K/2 2
        blocks = pairs.split(2 * self._lanes)
        return torch.cat([block.transpose(0, 1).flatten() for block in blocks])


def _aligned(x: Map) -> bool:
    """Return True if the library can read and write the groups of a map."""
    return all(group.shape[-1] % MULTIPLE == 0 for group in x)


def _vector(bias: Tensor | None, size: int) -> Tensor:
    """Return a bias in fp32, zeros if there is none."""
    return torch.zeros(size) if bias is None else bias.float().contiguous()
