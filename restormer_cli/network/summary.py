"""Summary of a Restormer: its stages, parameters, multiply-adds and memory.

Multiply-adds are counted as in the paper: for convolutions only, weights times output pixels. The
paper's network has 140.99 G at 256 x 256. The two matrix products of equation 1 (q k^T, and its
softmax times v) are counted separately, as `attention`. The implementation in `restormer` computes
only the first of them, because it folds the second into the output projection.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .restormer import LEVELS, Architecture, Restormer, TransformerBlock
from .sizes import MULTIPLE, round_up

if TYPE_CHECKING:
    from collections.abc import Iterable

STAGES = {
    "patch_embed": ("patch embedding", 1),
    "encoder_level1": ("encoder 1", 1),
    "down1_2": ("down to 2", 2),
    "encoder_level2": ("encoder 2", 2),
    "down2_3": ("down to 3", 3),
    "encoder_level3": ("encoder 3", 3),
    "down3_4": ("down to 4", 4),
    "latent": ("latent", 4),
    "up4_3": ("up to 3", 3),
    "reduce_chan_level3": ("reduction 3", 3),
    "decoder_level3": ("decoder 3", 3),
    "up3_2": ("up to 2", 2),
    "reduce_chan_level2": ("reduction 2", 2),
    "decoder_level2": ("decoder 2", 2),
    "up2_1": ("up to 1", 1),
    "decoder_level1": ("decoder 1", 1),
    "refinement": ("refinement", 1),
    "skip_conv": ("skip", 1),
    "output": ("output", 1),
}
"""Titles of the children of `Restormer`, and the levels of their outputs."""

FP32 = 4
"""Bytes of a value in fp32."""


@dataclass(frozen=True)
class Stage:
    """Part of the network; height, width and channels are those of its output."""

    name: str  # attribute of `Restormer`
    title: str
    level: int  # 1 at the image's size, 4 at an eighth of it
    height: int
    width: int
    channels: int
    blocks: int | None  # number of transformer blocks, if the stage has any
    heads: int | None  # number of attention heads of each block
    hidden: int | None  # hidden width of the feed-forward networks
    parameters: int
    multiply_adds: int  # of the convolutions
    attention: int  # multiply-adds of the two attention products
    share: float  # fraction of the network's `multiply_adds`


@dataclass(frozen=True)
class Level:
    """Feature map that the encoder produces at one level, in fp32."""

    level: int
    height: int
    width: int
    channels: int
    map_bytes: int


@dataclass(frozen=True)
class Peak:
    """Peak memory of the activations in fp32, without the weights and the image."""

    name: str
    title: str
    bytes: int
    bytes_per_megapixel: float


@dataclass(frozen=True)
class Structure:
    """Stages and costs of a network for one image size, rounded up to multiples of 8."""

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
        """Return the fields for JSON."""
        return asdict(self)


def summarize(architecture: Architecture, height: int = 256, width: int = 256) -> Structure:
    """Describe the network of this architecture and its costs for an image of this size.

    Height and width, in pixels, are rounded up to multiples of 8, as images are padded.
    """
    height, width = round_up(height), round_up(width)
    with torch.device("meta"):  # shapes without values
        network = Restormer(architecture)
        image = torch.empty(1, architecture.in_channels, height, width)
    with ActivationMeter([*network.parameters(), image]) as meter, torch.no_grad():
        network(image)

    stages = _stages(network, height, width)
    total = sum(stage.multiply_adds for stage in stages)
    stages = [replace(stage, share=stage.multiply_adds / total) for stage in stages]
    maps_bytes = feature_maps_bytes(architecture, height, width, FP32)

    def peak(name: str, title: str, count: int) -> Peak:
        return Peak(name, title, count, count / (height * width) * 1_000_000)

    return Structure(
        architecture=architecture,
        height=height,
        width=width,
        stages=tuple(stages),
        levels=tuple(
            Level(s.level, s.height, s.width, s.channels, s.height * s.width * s.channels * FP32)
            for s in stages
            if s.name.startswith("encoder") or s.name == "latent"
        ),
        parameters=sum(p.numel() for p in network.parameters()),
        multiply_adds=total,
        attention=sum(stage.attention for stage in stages),
        peaks=(
            peak("published", "published formulation, whole image", _published_bytes(stages)),
            peak("plain", "Restormer.forward, whole image", meter.peak),
            peak("strips", "exact, in strips: its feature maps", maps_bytes),
        ),
    )


def multiply_adds_per_pixel(architecture: Architecture) -> float:
    """Return the multiply-adds of `summarize` for a pixel, without a forward pass.

    Its meter makes PyTorch import the compiler, which takes seconds and 100 MB.
    """
    return sum(stage.multiply_adds for stage in _smallest(architecture)) / MULTIPLE**2


def block_values_per_pixel(architecture: Architecture) -> float:
    """Return the number of values that enter the transformer blocks for a pixel of an image."""
    stages = _smallest(architecture)
    return sum((s.blocks or 0) * s.height * s.width * s.channels for s in stages) / MULTIPLE**2


def _smallest(architecture: Architecture) -> list[Stage]:
    """Return the stages for the smallest image."""
    with torch.device("meta"):
        network = Restormer(architecture)
    return _stages(network, MULTIPLE, MULTIPLE)


def _stages(network: Restormer, height: int, width: int) -> list[Stage]:
    stages: list[Stage] = []
    for name, module in network.named_children():
        entering = stages[-1].level if stages else 1
        stages.append(_stage(name, module, height, width, entering))
    return stages


def _stage(name: str, module: nn.Module, height: int, width: int, entering: int) -> Stage:
    """Describe a stage, without its share, whose input is at level `entering`."""
    title, level = STAGES[name]
    pixels = height * width >> 2 * (entering - 1)
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    blocks = [m for m in module.modules() if isinstance(m, TransformerBlock)]
    first = blocks[0] if blocks else None
    squares = sum(b.attn.project_out.in_channels**2 // b.attn.heads for b in blocks)
    return Stage(
        name=name,
        title=title,
        level=level,
        height=height >> level - 1,
        width=width >> level - 1,
        # Pixel-shuffles keep the number of values.
        channels=int(convolutions[-1].out_channels * 4 ** (level - entering)),
        blocks=len(blocks) if isinstance(module, nn.Sequential) else None,
        heads=first.attn.heads if first else None,
        hidden=first.ffn.project_out.in_channels if first else None,
        parameters=sum(p.numel() for p in module.parameters()),
        multiply_adds=pixels * sum(conv.weight.numel() for conv in convolutions),
        attention=2 * squares * pixels,
        share=0.0,
    )


def trace_shapes(network: Restormer) -> list[tuple[str, tuple[int, ...]]]:
    """Restore a random 64 x 64 image and return the shape of each stage's output.

    Returns:
        Names of the stages and shapes B H W C, in order. "image" comes first and "output" last,
        both B C H W. The skip of a dual-pixel network is not listed.
    """
    shape = (1, network.architecture.in_channels, 64, 64)
    shapes: dict[str, tuple[int, ...]] = {"image": shape}
    names = {module: name for name, module in network.named_children()}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        reduction = names[module].replace("decoder", "reduce_chan")
        if reduction != names[module] and hasattr(network, reduction):
            # No hook observes a reduction, because it is applied as a matrix product.
            shapes[reduction] = tuple(inputs[0].shape)
        shapes[names[module]] = tuple(output.shape)

    noise = torch.rand(shape, generator=torch.Generator())  # without the global generator
    with ExitStack() as hooks, torch.no_grad():
        for module in names:
            hooks.enter_context(module.register_forward_hook(record))
        output = network(noise.to(next(network.parameters())))
    return [*shapes.items(), ("output", tuple(output.shape))]


class ActivationMeter(TorchDispatchMode):
    """Context manager that measures the peak memory of the tensors created inside.

    It counts the storage of every tensor that an operation returns, on any device, but not the
    workspaces inside kernels.

    Args:
        existing: tensors to leave out.

    Attributes:
        peak: peak so far, in bytes.
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
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            address = storage._cdata
            if address not in self._known:
                self._known.add(address)
                self._alive += storage.nbytes()
                self.peak = max(self.peak, self._alive)
                weakref.finalize(storage, self._forget, address, storage.nbytes())
        return result

    def _forget(self, address: int, count: int) -> None:
        self._known.remove(address)
        self._alive -= count


def _published_bytes(stages: list[Stage]) -> int:
    """Return the peak memory of the published formulation, in bytes.

    Local variables keep the input and the output of each stage of blocks until the forward
    returns. The running block adds its own input, unless that is the input of the stage, and its
    intermediate maps. For the paper's network the peak is 8.43 GiB per megapixel, as measured.
    """
    peak = kept = 0
    for s in stages:
        if s.blocks is None:
            continue
        pixels = s.height * s.width
        if s.name != "refinement":  # its input is the decoder's output, already counted
            kept += pixels * s.channels
        if s.hidden:
            # Attention: the normalised input, q k v, unit q and k, the result, its projection.
            # Feed-forward: the sum and its normalised form, twice the hidden width before and
            # after the depthwise convolution, the hidden width for the gate and the product.
            working = max(8 * s.channels, 2 * s.channels + 6 * s.hidden)
            peak = max(peak, kept + pixels * (working + (s.blocks > 1) * s.channels))
        kept += pixels * s.channels
    return peak * FP32


def feature_maps_bytes(
    architecture: Architecture, height: int, width: int, bytes_per_value: int
) -> int:
    """Return the peak memory of the feature maps of a run in strips, without the strips.

    There is one map for each level, updated in place: the decoder overwrites the skip
    connections. Level 1 is decoded at twice its width and gets a second map while level 2 is
    still needed.
    """
    pixels = round_up(height) * round_up(width)
    # Twice the channels and a quarter of the pixels: each map is half as large as the one above.
    level = [pixels * architecture.dim >> n for n in range(LEVELS)]
    return max(sum(level), 2 * level[0] + level[1]) * bytes_per_value
