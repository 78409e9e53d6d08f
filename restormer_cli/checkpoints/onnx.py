"""Export a network as an ONNX file for other programs, checked with ONNX Runtime.

The graph is built from `TransformerBlock.weights`, so it computes what `Restormer.forward` does.
PyTorch's own exporter would need another package, and takes 14 s for a tiny network. Opset 17
(2022) is read by older programs too, and all operators are in the standard domain. Feature maps
are 1 C H W. In fp16, weights and feature maps are half precision, but sums over channels and
pixels, which exceed its range, and the image are single precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._version import __version__
from ..errors import CheckpointError
from ..extras import require
from ..files import write_atomic
from ..network import MULTIPLE, NORM_EPSILON, Restormer
from .file_errors import unwritable_error
from .serialization import load_network

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor, nn

    from ..network import BlockWeights, Projection
    from .resolve import ResolvedCheckpoint

OPSET = 17
IR_VERSION = 8  # the one that belongs to opset 17

PRECISIONS = {"fp32": np.float32, "fp16": np.float16}

TOLERANCES = {"fp32": 1e-4, "fp16": 10 ** (-50 / 20)}
"""Largest difference to the network in fp32, and root mean square (50 dB PSNR) in fp16."""

CHECKED_SIZES = ((64, 64), (48, 88), (8, 136))
"""Height and width of the images that an exported network is checked with."""


@dataclass(frozen=True)
class Exported:
    """An ONNX file and its largest difference to the network."""

    path: Path
    bytes: int
    difference: float


def export_onnx(
    weights: ResolvedCheckpoint, task: str, path: Path, precision: str = "fp32"
) -> Exported:
    """Write the network of a checkpoint as an ONNX file, completely or not at all.

    The file has an input "image" and an output "restored", both 1 C H W in fp32, 0..1, for any H
    and W that are multiples of 8. Its metadata name task, weights, source, SHA-256 and licence.

    Args:
        weights: the checkpoint.
        task: name of the task, for the metadata.
        path: file to write; an existing one is replaced.
        precision: "fp32", or "fp16" for weights and feature maps in half precision.

    Raises:
        UsageError: the packages of the extra `onnx` are not installed.
        CheckpointError: the network cannot be loaded, the file cannot be written, or ONNX Runtime
            does not compute what the network does.
    """
    require_packages()
    network = load_network(weights)
    metadata = {
        "task": task,
        "weights": weights.name,
        "source": weights.source,
        "sha256": weights.sha256,
        "licence": weights.licence or "unknown",
        "precision": precision,
        "multiple": str(MULTIPLE),
        "restormer_version": __version__,
    }
    with torch.no_grad():
        content = to_onnx(network, precision, metadata)
        difference = _check(content, network, precision, weights.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        raise unwritable_error(path, error) from error
    return Exported(path, len(content), difference)


def require_packages() -> None:
    """Raise UsageError unless the packages of the extra `onnx` are installed."""
    for module in ("onnx", "onnxruntime"):
        require(module, "onnx", "the export")


def to_onnx(network: Restormer, precision: str, metadata: dict[str, str]) -> bytes:
    """Return the content of an ONNX file that computes `network.forward`."""
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph(precision)
    graph.op("Identity", _restorer(graph, network), output="restored")
    a = network.architecture
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, "height", "width"])
        for name, channels in (("image", a.in_channels), ("restored", a.out_channels))
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "restormer", ends[:1], ends[1:], graph.constants),
        producer_name="restormer",
        producer_version=__version__,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        doc_string="Restormer (arXiv 2111.09881). image, restored: 1 C H W, RGB, 0..1; H and W are "
        f"multiples of {MULTIPLE}. Six channels are the left and the right view.",
    )
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


class _Graph:
    """Nodes and constants of an ONNX graph; values are represented by their names."""

    def __init__(self, precision: str) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.type = PRECISIONS[precision]

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add an operation with one output and return the output."""
        return self.ops(kind, *inputs, outputs=[output or self._name(kind)], **attributes)[0]

    def ops(self, kind: str, *inputs: str, outputs: list[str], **attributes: Any) -> list[str]:
        """Add an operation with the given outputs and return them."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, outputs, outputs[0], **attributes))
        return outputs

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        """Add a constant and return it."""
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        array = torch.as_tensor(values).detach().numpy().astype(kind)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape; 0 keeps a dimension and -1 takes the rest."""
        return self.op("Reshape", x, self.constant(shape, np.int64))

    def conv(self, x: str, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> str:
        """Convolve with a kernel of D C, D C 1 1, or D C 3 3 with zero padding."""
        kernel = weight if weight.ndim == 4 else weight[:, :, None, None]
        tensors = (kernel,) if bias is None else (kernel, bias)
        constants = [self.constant(tensor, self.type) for tensor in tensors]
        return self.op("Conv", x, *constants, group=groups, pads=[kernel.shape[2] // 2] * 4)

    def split(self, x: str) -> list[str]:
        """Split into queries and keys."""
        name = self._name("Split")
        return self.ops("Split", x, outputs=[f"{name}_q", f"{name}_k"], axis=1)

    def transpose(self, x: str) -> str:
        """Exchange the last two of four axes."""
        return self.op("Transpose", x, perm=[0, 1, 3, 2])

    def wide(self, x: str) -> str:
        """Convert a feature map to fp32."""
        return x if self.type is np.float32 else self.op("Cast", x, to=1)  # TensorProto.FLOAT

    def narrow(self, x: str) -> str:
        """Convert fp32 to the type of the feature maps."""
        return x if self.type is np.float32 else self.op("Cast", x, to=10)  # TensorProto.FLOAT16

    def _name(self, kind: str) -> str:
        return f"{kind}_{len(self.nodes)}"


def _restorer(g: _Graph, network: Restormer) -> str:
    """Add the U-shaped network and return its output: `Restormer.forward`."""
    n = network
    x0 = _conv(g, g.narrow("image"), n.patch_embed.proj)
    x1 = _blocks(g, x0, n.encoder_level1)
    x2 = _blocks(g, _down(g, x1, n.down1_2), n.encoder_level2)
    x3 = _blocks(g, _down(g, x2, n.down2_3), n.encoder_level3)
    y = _blocks(g, _down(g, x3, n.down3_4), n.latent)
    y = _conv(g, _up(g, y, n.up4_3, x3), n.reduce_chan_level3)
    y = _blocks(g, y, n.decoder_level3)
    y = _conv(g, _up(g, y, n.up3_2, x2), n.reduce_chan_level2)
    y = _blocks(g, y, n.decoder_level2)
    y = _blocks(g, _up(g, y, n.up2_1, x1), n.decoder_level1)
    y = _blocks(g, y, n.refinement)
    if n.architecture.dual_pixel:
        y = g.op("Add", y, _conv(g, x0, n.skip_conv))
    y = g.wide(_conv(g, y, n.output))
    return y if n.architecture.dual_pixel else g.op("Add", y, "image")


def _conv(g: _Graph, x: str, conv: nn.Conv2d) -> str:
    return g.conv(x, conv.weight, conv.bias)


def _down(g: _Graph, x: str, resample: Any) -> str:
    """Halve height and width: `pixel_unshuffle`, whose channels SpaceToDepth orders differently."""
    y = g.op("SpaceToDepth", _conv(g, x, resample.body[0]), blocksize=2)  # (i j c)
    channels = resample.body[0].out_channels
    order = np.arange(4 * channels).reshape(4, channels).T.flatten()  # (c i j)
    return g.op("Gather", y, g.constant(order, np.int64), axis=1)


def _up(g: _Graph, x: str, resample: Any, skip: str) -> str:
    """Double height and width, `pixel_shuffle`, and append the skip connection."""
    y = g.op("DepthToSpace", _conv(g, x, resample.body[0]), blocksize=2, mode="CRD")
    return g.op("Concat", y, skip, axis=1)


def _blocks(g: _Graph, x: str, blocks: Iterable[Any]) -> str:
    for block in blocks:
        w = block.weights()
        normal = _normalise(g, x, w.centred)
        qk, v = _project(g, normal, w.qk), _project(g, normal, w.v)
        mixed = _mix(g, v, _attention(g, qk, w), w)
        x = g.op("Add", x, mixed)
        x = g.op("Add", x, _feed_forward(g, _normalise(g, x, w.centred), w))
    return x


def _normalise(g: _Graph, x: str, centred: bool) -> str:
    """Divide the channels of each pixel by their standard deviation: `normalised`."""
    x = g.wide(x)
    deviation = g.op("Sub", x, g.op("ReduceMean", x, axes=[1]))
    variance = g.op("ReduceMean", g.op("Mul", deviation, deviation), axes=[1])
    std = g.op("Sqrt", g.op("Add", variance, g.constant(NORM_EPSILON)))
    return g.narrow(g.op("Div", deviation if centred else x, std))


def _project(g: _Graph, normal: str, p: Projection) -> str:
    y = g.conv(normal, p.pointwise, p.pointwise_bias)
    return g.conv(y, p.depthwise, p.depthwise_bias, groups=p.depthwise.shape[0])


def _attention(g: _Graph, qk: str, w: BlockWeights) -> str:
    """Return the attention matrices, 1 heads c c in fp32: `statistics` and `attention`."""
    channels = w.v.depthwise.shape[0] // w.heads
    maps = g.reshape(g.wide(qk), 1, 2 * w.heads, channels, -1)
    lengths = g.op("Max", g.op("ReduceL2", maps, axes=[3]), g.constant(1e-12))
    q, k = g.split(maps)
    q_length, k_length = g.split(lengths)
    gram = g.op("MatMul", q, g.transpose(k))
    cosine = g.op("Div", gram, g.op("Mul", q_length, g.transpose(k_length)))
    temperature = g.constant(w.temperature[None])
    return g.op("Softmax", g.op("Mul", cosine, temperature), axis=-1)


def _mix(g: _Graph, v: str, attention: str, w: BlockWeights) -> str:
    """Apply attention and output projection to the values: `mixing_matrix` and `mix`."""
    channels = w.attention_out.weight.shape[0]
    out = w.attention_out.weight.unflatten(1, (w.heads, -1)).transpose(0, 1)  # heads C c
    matrices = g.op("MatMul", g.constant(out[None]), attention)
    matrix = g.reshape(g.op("Transpose", matrices, perm=[0, 2, 1, 3]), 1, channels, channels)
    mixed = g.op("MatMul", g.narrow(matrix), g.reshape(v, 1, channels, -1))
    mixed = g.op("Reshape", mixed, g.op("Shape", v))
    if w.attention_out.bias is None:
        return mixed
    return g.op("Add", mixed, g.constant(w.attention_out.bias[:, None, None], g.type))


def _feed_forward(g: _Graph, normal: str, w: BlockWeights) -> str:
    gate, value = _project(g, normal, w.gate), _project(g, normal, w.value)
    # GELU, which is an operator of its own only since opset 20: x / 2 (1 + erf(x / sqrt 2)).
    erf = g.op("Erf", g.op("Mul", gate, g.constant(math.sqrt(0.5), g.type)))
    twice = g.op("Mul", gate, g.op("Add", erf, g.constant(1, g.type)))
    gelu = g.op("Mul", twice, g.constant(0.5, g.type))
    return g.conv(g.op("Mul", gelu, value), *w.ffn_out)


def _check(content: bytes, network: Restormer, precision: str, name: str) -> float:
    """Return the largest difference between ONNX Runtime and the network, at several sizes.

    Raises:
        CheckpointError: they differ by more than the precision allows.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    largest = 0.0
    for size in CHECKED_SIZES:
        shape = (1, network.architecture.in_channels, *size)
        image = np.random.default_rng(0).random(shape, dtype=np.float32)
        expected = network(torch.from_numpy(image)).numpy()
        difference = session.run(["restored"], {"image": image})[0] - expected
        error = np.abs(difference).max() if precision == "fp32" else np.sqrt(np.mean(difference**2))
        if not error <= TOLERANCES[precision] * max(1, np.abs(expected).max()):  # also if NaN
            raise CheckpointError(
                f"{name}: in {precision}, ONNX Runtime differs from the network by {error:.1g}",
                "Use --precision fp32, or another version of onnxruntime."
                if precision == "fp16"
                else "Install another version of onnxruntime.",
            )
        largest = max(largest, float(np.abs(difference).max()))
    return largest
