"""Exported networks compute in ONNX Runtime what they compute here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from restormer_cli import __version__
from restormer_cli.checkpoints import TASKS, load_network
from restormer_cli.files import sha256_file
from restormer_cli.network import Restormer, reference_forward
from tests.support.networks import VARIANTS
from tests.support.program import Outcome, tree

if TYPE_CHECKING:
    from collections.abc import Callable

REASON = "{}, of the extra `onnx`, is not installed"
onnx: Any = pytest.importorskip("onnx", reason=REASON.format("onnx"))
onnxruntime: Any = pytest.importorskip("onnxruntime", reason=REASON.format("onnxruntime"))

SIZES = ((64, 48), (8, 8), (72, 136))
"""Heights and widths; the last has more pixels than the engine sums in one product."""


def save(network: Restormer, name: str = "mine.pth") -> str:
    torch.save({"params": network.state_dict()}, name)
    return name


def run(file: str, image: np.ndarray) -> np.ndarray:
    """Return what ONNX Runtime computes."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(["restored"], {"image": image})[0]  # type: ignore[no-any-return]


def differences(file: str, network: Restormer, sizes: Any = SIZES) -> list[np.ndarray]:
    """Return ONNX Runtime's result less the published formulation's at each size."""
    results = []
    for number, size in enumerate(sizes):
        shape = (1, network.architecture.in_channels, *size)
        image = np.random.default_rng(number).random(shape, dtype=np.float32)
        with torch.no_grad():
            expected = reference_forward(network, torch.from_numpy(image)).numpy()
        results.append(run(file, image) - expected)
    return results


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_network_is_exported_exactly(
    variant: str, restormer: Callable[..., Outcome], folder: Path
) -> None:
    """Either LayerNorm, grey, two views and biases agree to 1e-4 with the plain forward."""
    network = VARIANTS[variant]
    outcome = restormer("export", "defocus", "-o", "out/x.onnx", "--weights", save(network))
    assert outcome.status == 0, outcome.stderr
    assert all(np.abs(d).max() <= 1e-4 for d in differences("out/x.onnx", network))


@pytest.mark.parametrize("task", TASKS)
def test_the_lite_weights_are_exported_exactly(
    task: str, restormer: Callable[..., Outcome], folder: Path
) -> None:
    """The bundled networks of all tasks agree to 1e-4 with the plain forward."""
    assert restormer("export", task, "-o", "x.onnx", "--weights", "lite").status == 0
    network = load_network(Path(TASKS[task].lite).stem)
    assert all(np.abs(d).max() <= 1e-4 for d in differences("x.onnx", network))


def test_half_precision_halves_the_file(restormer: Callable[..., Outcome], folder: Path) -> None:
    """fp16 agrees to 50 dB with fp32, takes and returns fp32, and halves the file."""
    export = ("export", "denoise", "--weights", "lite", "-o")
    assert restormer(*export, "half.onnx", "--precision", "fp16").status == 0
    assert restormer(*export, "single.onnx").status == 0
    sizes = [Path(name).stat().st_size for name in ("half.onnx", "single.onnx")]
    assert sizes[0] < 0.6 * sizes[1]
    network = load_network("restormer-lite-denoise")
    errors = differences("half.onnx", network, SIZES[:2])
    assert all(d.dtype == np.float32 and np.mean(d**2) <= 1e-5 for d in errors)


def test_bright_features_do_not_overflow_in_half_precision(
    restormer: Callable[..., Outcome], folder: Path
) -> None:
    """Sums over channels and pixels are beyond the range of fp16, and are computed in fp32."""
    weights = save(VARIANTS["rgb_with_bias"])
    export = ("export", "denoise", "-o", "x.onnx", "--weights", weights, "--precision", "fp16")
    assert restormer(*export).status == 0
    graph = onnx.load("x.onnx").graph
    made = {output: node for node in graph.node for output in node.output}
    roots = [node for node in graph.node if node.op_type == "ReduceL2"]
    assert roots
    assert all(made[made[node.input[0]].input[0]].op_type == "Cast" for node in roots)


def test_the_file_names_its_origin(restormer: Callable[..., Outcome], folder: Path) -> None:
    """The metadata name task, weights, source, hash, licence and version."""
    weights = save(VARIANTS["rgb_with_bias"])
    outcome = restormer("export", "derain", "-o", "x.onnx", "--weights", weights, "--json")
    metadata = {entry.key: entry.value for entry in onnx.load("x.onnx").metadata_props}
    assert metadata == {
        "task": "derain",
        "weights": "mine.pth",
        "source": "file",
        "sha256": sha256_file(Path(weights)),
        "licence": "unknown",
        "precision": "fp32",
        "multiple": "8",
        "restormer_version": __version__,
    }
    event = json.loads(outcome.stdout)
    assert event["path"] == "x.onnx"
    assert event["sha256"] == metadata["sha256"]
    assert event["bytes"] == Path("x.onnx").stat().st_size
    assert restormer("export", "derain", "-o", "y.onnx", "--weights", "lite").status == 0
    metadata = {entry.key: entry.value for entry in onnx.load("y.onnx").metadata_props}
    assert (metadata["licence"], metadata["source"]) == ("MIT", "lite")


def test_the_graph_is_that_of_one_image_of_any_size(
    restormer: Callable[..., Outcome], folder: Path
) -> None:
    """The batch is 1, sides are symbolic, and all operators are standard ones of opset 17."""
    weights = save(VARIANTS["dual_pixel"])
    assert restormer("export", "defocus", "-o", "x.onnx", "--weights", weights).status == 0
    model = onnx.load("x.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    shapes = [
        [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [[1, 6, "height", "width"], [1, 3, "height", "width"]]


@pytest.mark.parametrize("size", [(16, 12), (20, 16), (15, 16)])
def test_other_sizes_are_refused(
    size: tuple[int, int], restormer: Callable[..., Outcome], folder: Path
) -> None:
    """An image whose sides are not multiples of 8 is an error, not a wrong result."""
    weights = save(VARIANTS["rgb_with_bias"])
    assert restormer("export", "denoise", "-o", "x.onnx", "--weights", weights).status == 0
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        run("x.onnx", np.zeros((1, 3, *size), np.float32))


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_a_wrong_result_of_the_runtime_is_not_exported(
    value: float, restormer: Callable[..., Outcome], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If ONNX Runtime computes something else, the command fails and keeps the old file."""

    class Wrong:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def run(self, _: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.full_like(inputs["image"], value)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    Path("x.onnx").write_bytes(b"old")
    outcome = restormer("export", "denoise", "-o", "x.onnx", "--weights", "lite")
    assert outcome.status == 3
    assert "differs from the network" in outcome.stderr
    assert Path("x.onnx").read_bytes() == b"old"
    assert tree() == ["x.onnx"]


def test_a_file_that_cannot_be_written_is_an_error(
    restormer: Callable[..., Outcome], folder: Path
) -> None:
    """A target whose folder is a file fails with cause and remedy."""
    Path("taken").write_bytes(b"")
    outcome = restormer("export", "denoise", "-o", "taken/x.onnx", "--weights", "lite")
    assert outcome.status == 3
    assert "taken/x.onnx: cannot be written" in outcome.stderr
