"""What a Restormer is made of and what it costs, stage by stage.

No cost is written down: the real network is built and run on torch's "meta" device, where tensors
have shapes and no values, and parameters, multiply-adds and maps are read off its modules. Two of
the three memory peaks are worked out from those, with the reasoning beside; the plain forward's
is metered.

Multiply-adds are those of the convolutions, of all of them and of nothing else: per pixel at which
a convolution works, one for each of its weights. That is how the paper counts; its network then
takes the published 140.99 G at 256 x 256. What the convention leaves out and is worth knowing is
told apart as `attention`: the two matrix products of equation 1, q k^T and its softmax times v,
as the paper writes them. `network` has the second one folded into the output projection, which is
counted as the convolution that it was, so here only half of `attention` is computed.
Biases, normalisations, activations, additions and the lengths of q and k are not counted.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .restormer import LEVELS, MULTIPLE, Architecture, Restormer, TransformerBlock

if TYPE_CHECKING:
    from collections.abc import Iterable


TITLES = {
    "patch_embed": "patch embedding",
    "encoder_level1": "encoder 1",
    "down1_2": "down to 2",
    "encoder_level2": "encoder 2",
    "down2_3": "down to 3",
    "encoder_level3": "encoder 3",
    "down3_4": "down to 4",
    "latent": "latent",
    "up4_3": "up to 3",
    "reduce_chan_level3": "reduction 3",
    "decoder_level3": "decoder 3",
    "up3_2": "up to 2",
    "reduce_chan_level2": "reduction 2",
    "decoder_level2": "decoder 2",
    "up2_1": "up to 1",
    "decoder_level1": "decoder 1",
    "refinement": "refinement",
    "skip_conv": "skip",
    "output": "output",
}
"""What the parts of `Restormer` are called in print."""

FP32 = 4
"""Bytes of a value: all peaks are told for this precision."""

PROOF = 64
"""Height and width of the image that `prove` sends through a network."""

MEGAPIXEL = 1_000_000


@dataclass(frozen=True)
class Stage:
    """One part of the network; blocks, heads and hidden width only where it has blocks.

    Attributes:
        name: the attribute of `Restormer`.
        level: 1 at the image's size, 4 at an eighth of it.
        height, width, channels: of the map that leaves the stage.
        multiply_adds: of its convolutions.
        attention: multiply-adds of its two attention products.
        share: of the network's `multiply_adds`.
    """

    name: str
    title: str
    level: int
    height: int
    width: int
    channels: int
    blocks: int | None
    heads: int | None
    hidden: int | None
    parameters: int
    multiply_adds: int
    attention: int
    share: float


@dataclass(frozen=True)
class Level:
    """One feature map of a level, as the encoder leaves it, in fp32."""

    level: int
    height: int
    width: int
    channels: int
    map_bytes: int


@dataclass(frozen=True)
class Peak:
    """The most that activations take at one moment, in fp32; weights and image come on top."""

    name: str
    title: str
    bytes: int
    bytes_per_megapixel: float


@dataclass(frozen=True)
class Structure:
    """A network and its costs for one image size; every side rounded up to a multiple of 8."""

    architecture: Architecture
    height: int
    width: int
    stages: tuple[Stage, ...]
    levels: tuple[Level, ...]
    parameters: int
    multiply_adds: int
    attention: int
    peaks: tuple[Peak, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, fit for JSON."""
        return asdict(self, dict_factory=_listed)


def _listed(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in pairs}


# --- what passes through the stages ------------------------------------------------------------


@dataclass(frozen=True)
class _Maps:
    """Shapes B H W C of what enters and what leaves a stage; empty where nobody could look."""

    entering: tuple[int, ...] = ()
    leaving: tuple[int, ...] = ()


def _maps(network: Restormer, image: Tensor) -> dict[str, _Maps]:
    """Send an image through the network, with an observer at every stage's ends.

    Reductions are plain convolutions that `Restormer` applies as matrix products, out of a
    hook's sight: what leaves them is seen where it enters the next stage.
    """
    names = [name for name, _ in network.named_children()]
    seen = dict.fromkeys(names, _Maps())

    def observe(name: str, before: str | None) -> Any:
        def hook(module: nn.Module, entering: tuple[Tensor, ...], leaving: Tensor) -> None:
            seen[name] = _Maps(tuple(entering[0].shape), tuple(leaving.shape))
            if before is not None:
                seen[before] = _Maps((), tuple(entering[0].shape))

        return hook

    with ExitStack() as hooks, torch.no_grad():
        unseen = None
        for name, module in network.named_children():
            if isinstance(module, nn.Conv2d):
                unseen = name
            else:
                hooks.enter_context(module.register_forward_hook(observe(name, unseen)))
                unseen = None
        output = network(image)
    b, channels, height, width = output.shape
    seen["output"] = _Maps((), (b, height, width, channels))
    return seen


def trace_shapes(network: Restormer) -> list[tuple[str, tuple[int, ...]]]:
    """Send a random 64 x 64 image through a network: the shapes that leave its stages.

    Returns:
        The stages' names, in order, and shapes B H W C; first "image" and last "output", which
        are B C H W. A dual-pixel network's skip is added inside `Restormer`, unseen, and not
        listed.
    """
    like = next(network.parameters())
    shape = (1, network.architecture.in_channels, PROOF, PROOF)
    noise = torch.rand(shape, generator=torch.Generator())  # leaves the global one alone
    maps = _maps(network, noise.to(like))
    b, height, width, channels = maps.pop("output").leaving
    between = [(name, m.leaving) for name, m in maps.items() if m.leaving]
    return [("image", shape), *between, ("output", (b, channels, height, width))]


# --- costs -------------------------------------------------------------------------------------


def summarize(
    architecture: Architecture,
    height: int = 256,
    width: int = 256,
    *,
    streamed_bytes: int | None = None,
) -> Structure:
    """What the network of this architecture is made of, and costs on an image of this size.

    Args:
        architecture: of any network, of any size.
        height: of the image; rounded up to a multiple of 8, as images are padded.
        width: likewise.
        streamed_bytes: the peak of a run in strips, from who knows it; without it, that of its
            feature maps is told (`feature_maps_bytes`).
    """
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in (height, width))
    with torch.device("meta"):
        network = Restormer(architecture)
        image = torch.empty(1, architecture.in_channels, height, width)
    with _Meter([*network.parameters(), image]) as meter:
        maps = _maps(network, image)

    stages: list[Stage] = []
    before: tuple[int, ...] = (1, height, width, architecture.in_channels)
    for name, module in network.named_children():
        # A convolution that nobody could look at keeps height and width.
        works_at = maps[name].entering or before
        if isinstance(module, nn.Conv2d):
            leaving = maps[name].leaving or (*before[:3], module.out_channels)
        else:
            leaving = maps[name].leaving
        stages.append(_stage(name, module, height, works_at[1] * works_at[2], leaving))
        before = leaving
    total = sum(stage.multiply_adds for stage in stages)
    stages = [replace(stage, share=stage.multiply_adds / total) for stage in stages]

    if streamed_bytes is None:
        strips = ("strips", "exact, in strips: its feature maps")
        streamed_bytes = feature_maps_bytes(architecture, height, width, FP32)
    else:
        strips = ("strips", "exact, in strips")
    peaks = {
        ("published", "published formulation, whole image"): _published_bytes(network, maps),
        ("plain", "plain forward here, whole image"): meter.peak,
        strips: streamed_bytes,
    }
    return Structure(
        architecture=architecture,
        height=height,
        width=width,
        stages=tuple(stages),
        levels=tuple(_levels(stages)),
        parameters=sum(p.numel() for p in network.parameters()),
        multiply_adds=total,
        attention=sum(stage.attention for stage in stages),
        peaks=tuple(
            Peak(name, title, count, count / (height * width) * MEGAPIXEL)
            for (name, title), count in peaks.items()
        ),
    )


def _blocks(module: nn.Module) -> list[TransformerBlock]:
    return [m for m in module.modules() if isinstance(m, TransformerBlock)]


def _stage(
    name: str, module: nn.Module, image_height: int, pixels: int, leaving: tuple[int, ...]
) -> Stage:
    """One row of the table, its share left open; its convolutions work at so many pixels."""
    _, height, width, channels = leaving
    blocks = _blocks(module)
    first = blocks[0] if blocks else None
    weights = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))
    squares = sum(m.project_out.in_channels**2 // m.heads for m in (b.attn for b in blocks))
    return Stage(
        name=name,
        title=TITLES.get(name, name),
        level=(image_height // height).bit_length(),
        height=height,
        width=width,
        channels=channels,
        blocks=len(blocks) if isinstance(module, nn.Sequential) else None,
        heads=first.attn.heads if first else None,
        hidden=first.ffn.project_out.in_channels if first else None,
        parameters=sum(p.numel() for p in module.parameters()),
        multiply_adds=weights * pixels,
        attention=2 * squares * pixels,
        share=0.0,
    )


def _levels(stages: list[Stage]) -> list[Level]:
    """One map a level: of the first stage with blocks that works there, which is the encoder's."""
    first: dict[int, Stage] = {}
    for stage in stages:
        if stage.blocks is not None:
            first.setdefault(stage.level, stage)
    return [
        Level(n, s.height, s.width, s.channels, s.height * s.width * s.channels * FP32)
        for n, s in sorted(first.items())
    ]


# --- memory ------------------------------------------------------------------------------------


class _Meter(TorchDispatchMode):
    """Adds up the bytes of tensors that are alive, of those made while it is on.

    It sees every tensor that an operation returns, on any device, and nothing that a kernel uses
    inside itself. Views share their tensor's storage and cost nothing; nor do the `existing`.
    """

    def __init__(self, existing: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._alive = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in existing}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address not in self._known:
            self._known.add(address)
            self._alive += storage.nbytes()
            self.peak = max(self.peak, self._alive)
            weakref.finalize(storage, self._forget, address, storage.nbytes())

    def _forget(self, address: int, count: int) -> None:
        self._known.remove(address)
        self._alive -= count


def _published_bytes(network: Restormer, maps: dict[str, _Maps]) -> int:
    """The peak of the formulation that was published, if every map lives as long as its name.

    A forward that is written down as the paper draws it keeps what entered and what left each
    stage of blocks until it returns, since a later line could still use it. At work in a block
    are what entered it (in a stage's first block that is the stage's, and counted already) and

    - in the attention (8 maps): the normalised input, q k v, q and k at unit length, and what
      comes of them before and after the projection;
    - in the feed-forward network: what the attention left, this normalised, twice the hidden
      width before and after the depthwise convolution, and the hidden width for the gate and for
      the product.

    For the paper's network that is 8.43 GiB per megapixel, in the refinement, and as measured.
    """
    peak = kept = 0
    for name, module in network.named_children():
        if not isinstance(module, nn.Sequential):
            continue
        pixels, channels = prod(maps[name].entering[:3]), maps[name].entering[3]
        if name != "refinement":  # whose input is the decoder's output, and counted
            kept += pixels * channels
        for number, block in enumerate(_blocks(module)):
            hidden: int = block.ffn.project_out.in_channels
            working = max(8 * channels, 2 * channels + 6 * hidden) + (channels if number else 0)
            peak = max(peak, kept + pixels * working)
        kept += pixels * channels
    return peak * FP32


def feature_maps_bytes(
    architecture: Architecture, height: int, width: int, bytes_per_value: int
) -> int:
    """What the feature maps take where there is one a level and each is updated in place.

    Down to the latent there is one map at each of the four levels; on the way up each level's
    input is written over its skip connection, and the level below is dropped. Level 1, which is
    decoded at twice its width, gets a second map beside its skip connection while level 2 still
    is there to be enlarged: that is the peak. What else a run in strips needs, the strips it is
    at, is bounded and comes on top. A dual-pixel network's skip is computed anew from the image.
    """
    pixels = -(-height // MULTIPLE) * -(-width // MULTIPLE) * MULTIPLE * MULTIPLE
    # Twice the channels and a quarter of the pixels: each level is half the one above.
    level = [pixels * architecture.dim >> n for n in range(LEVELS)]
    return max(sum(level), 2 * level[0] + level[1]) * bytes_per_value


# --- the table ---------------------------------------------------------------------------------
