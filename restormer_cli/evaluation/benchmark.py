"""How fast a network runs here, in every way it can run, and how far that is from the limits."""

from __future__ import annotations

import ctypes
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..inference import devices
from ..inference.engine import restore
from ..network.restormer import LayerNorm, Restormer, TransformerBlock
from ..network.summary import summarize

if TYPE_CHECKING:
    from rich.table import Table

TILE = 256


@dataclass(frozen=True)
class Measurement:
    """One way of running, at one size.

    `ratio` is the plain forward's time over this one's; `of_peak` the share of the matrix
    products' measured peak in this precision, counting the network's multiply-adds; `memory` the
    peak in bytes beside the network and the image; `psnr` in dB against the plain forward.
    """

    size: int
    way: str
    precision: str
    seconds: float
    megapixels_per_second: float
    ratio: float | None
    memory: int
    of_peak: float
    largest_difference: float | None
    psnr: float | None

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, fit for JSON; a PSNR without limit is None."""
        fields = asdict(self)
        return {**fields, "psnr": None if self.psnr == math.inf else self.psnr}


def plain(network: Restormer, image: Tensor) -> Tensor:
    """The whole image in one pass as the published formulation has it, operation by operation.

    B C H W throughout, 1x1 convolutions as convolutions, LayerNorm by `var`, attention and output
    projection one after the other: what engines are measured against.
    """

    def normal(x: Tensor, norm: LayerNorm) -> Tensor:
        y = rearrange(x, "b c h w -> b (h w) c")
        deviation = (y.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        if norm.body.centred:
            y = y - y.mean(-1, keepdim=True)
        y = y / deviation * norm.body.weight
        if norm.body.bias is not None:
            y = y + norm.body.bias
        return rearrange(y, "b (h w) c -> b c h w", h=x.shape[2])

    def block(x: Tensor, b: TransformerBlock) -> Tensor:
        qkv = b.attn.qkv_dwconv(b.attn.qkv(normal(x, b.norm1)))
        q, k, v = rearrange(
            qkv, "b (qkv head c) h w -> qkv b head c (h w)", qkv=3, head=b.attn.heads
        )
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * b.attn.temperature
        y = rearrange(weights.softmax(-1) @ v, "b head c (h w) -> b (head c) h w", h=x.shape[2])
        x = x + b.attn.project_out(y)
        gate, value = b.ffn.dwconv(b.ffn.project_in(normal(x, b.norm2))).chunk(2, dim=1)
        return x + b.ffn.project_out(F.gelu(gate) * value)  # type: ignore[no-any-return]

    def stage(x: Tensor, blocks: nn.Sequential) -> Tensor:
        for one in blocks:
            assert isinstance(one, TransformerBlock)  # noqa: S101 - for the type checker
            x = block(x, one)
        return x

    def down(x: Tensor, body: nn.Sequential) -> Tensor:
        return F.pixel_unshuffle(body[0](x), 2)

    def up(x: Tensor, body: nn.Sequential) -> Tensor:
        return F.pixel_shuffle(body[0](x), 2)

    n = network
    x0 = n.patch_embed.proj(image)
    x1 = stage(x0, n.encoder_level1)
    x2 = stage(down(x1, n.down1_2.body), n.encoder_level2)
    x3 = stage(down(x2, n.down2_3.body), n.encoder_level3)
    y = stage(down(x3, n.down3_4.body), n.latent)
    y = stage(n.reduce_chan_level3(torch.cat([up(y, n.up4_3.body), x3], 1)), n.decoder_level3)
    y = stage(n.reduce_chan_level2(torch.cat([up(y, n.up3_2.body), x2], 1)), n.decoder_level2)
    y = stage(torch.cat([up(y, n.up2_1.body), x1], 1), n.decoder_level1)
    y = stage(y, n.refinement)
    if n.architecture.dual_pixel:
        return n.output(y + n.skip_conv(x0))  # type: ignore[no-any-return]
    return n.output(y) + image  # type: ignore[no-any-return]


def matrix_peak(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """Multiply-adds a second that a large matrix product reaches here: the best of five."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    a @ b
    times = [_timed(lambda: a @ b, device)[0] for _ in range(5)]
    return side**3 / min(times)


def run_benchmark(
    network: Restormer, sizes: list[int], *, repeat: int = 1, with_plain: bool = True
) -> Iterator[Measurement]:
    """Measure every way of running at every size, the plain forward first.

    Args:
        network: in eval mode, on the device to measure.
        sizes: sides of square images in pixels, multiples of 8.
        repeat: runs of which the fastest counts.
        with_plain: whether to run the plain forward, which needs much memory; without it there
            are no ratios and differences.
    """
    device = next(network.parameters()).device
    half = devices.choose_precision("auto", device)
    precisions = ["fp32"] if half == "fp32" else ["fp32", half]
    peaks = {p: matrix_peak(device, devices.PRECISIONS[p]) for p in precisions}

    ways: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
        ("plain", "fp32", lambda x: plain(network, x).clamp(0, 1)),
        *(("strips", p, partial(restore, network, precision=p)) for p in precisions),
        (
            f"tiles of {TILE}",
            precisions[-1],
            partial(restore, network, tile=TILE, precision=precisions[-1]),
        ),
    ]
    for size in sizes:
        generator = torch.Generator().manual_seed(size)
        channels = network.architecture.in_channels
        image = torch.rand(1, channels, size, size, generator=generator).to(device)
        work = summarize(network.architecture, size, size).multiply_adds
        reference: tuple[float, Tensor] | None = None
        for way, p, forward in ways if with_plain else ways[1:]:
            with torch.inference_mode(), _metered(device) as memory:
                runs = [_timed(partial(forward, image), device) for _ in range(repeat)]
            seconds, result = min(runs, key=lambda run: run[0])
            if way == "plain":
                reference = seconds, result
            difference = (result - reference[1]).abs() if reference else None
            error = None if difference is None else difference.square().mean().item()
            yield Measurement(
                size=size,
                way=way,
                precision=p,
                seconds=seconds,
                megapixels_per_second=size * size / seconds / 1e6,
                ratio=reference[0] / seconds if reference else None,
                memory=memory(),
                of_peak=work / seconds / peaks[p],
                largest_difference=None if difference is None else difference.max().item(),
                psnr=None if error is None else (-10 * math.log10(error) if error else math.inf),
            )


def _timed(function: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Seconds until the device is done, and the result."""
    devices.synchronize(device)
    started = time.perf_counter()
    result = function()
    devices.synchronize(device)
    return time.perf_counter() - started, result


@contextmanager
def _metered(device: torch.device) -> Iterator[Callable[[], int]]:
    """Gives a function that tells the most bytes that were in use inside, beyond those before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    _release()
    process, stop, most = psutil.Process(), threading.Event(), 0
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.01):
            most = max(most, process.memory_info().rss - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: most
    finally:
        stop.set()
        thread.join()


def _release() -> None:
    """Give what earlier runs have freed back to the system: else it would not count again."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def table(measurements: list[Measurement], device: torch.device) -> Table:
    """The measurements as a table for a terminal of 80 columns."""
    from rich.table import Table
    from rich.text import Text

    where = f"{device}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)
    shown = Table(title=f"Restormer on {where}", title_justify="left", box=None, pad_edge=False)
    for heading in ("pixels", "way", "", "seconds", "MP/s", "ratio", "memory", "of peak", "PSNR"):
        shown.add_column(heading, justify="left" if heading in ("way", "") else "right")
    last = None
    for m in measurements:
        if last not in (None, m.size):
            shown.add_row()
        shown.add_row(
            "" if last == m.size else f"{m.size} x {m.size}",
            m.way,
            m.precision,
            f"{m.seconds:.2f}",
            f"{m.megapixels_per_second:.3f}",
            "" if m.ratio is None else Text(f"{m.ratio:.2f}", style="bold"),
            f"{m.memory / 2**30:.2f} GiB",
            f"{m.of_peak:.0%}",
            "" if m.psnr is None or m.way == "plain" else f"{m.psnr:.1f} dB",
        )
        last = m.size
    return shown
