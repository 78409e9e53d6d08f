"""Load checkpoint files strictly into a network, and save networks as safetensors."""

from __future__ import annotations

import json
import math
import re
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import write_atomic
from ..memory import MemoryGuard
from ..network import LEVELS, Architecture, Restormer
from ..text import first_line
from .file_errors import MALFORMED, unreadable_error, unwritable_error
from .resolve import ResolvedCheckpoint, resolve_name

State = dict[str, Tensor]

# Keys under which training programs store the weights. The moving average (EMA), which the authors
# use, comes first.
_WRAPPERS = ("params_ema", "params", "state_dict")
_MAX_NAMED = 3  # tensors in a message; the others are only counted


def load_network(path_or_name: str | Path | ResolvedCheckpoint) -> Restormer:
    """Load a network on the CPU, in fp32 and eval mode.

    Args:
        path_or_name: a task, such as "denoise", for its official checkpoint or, with a warning, its
            bundled lite weights; an official checkpoint, such as "deraining"; a path;
            "hf:ORG/REPO/FILE[@REV]"; or a resolved checkpoint.

    Raises:
        CheckpointError: the checkpoint is unavailable, or not a complete Restormer network.
    """
    if not isinstance(path_or_name, ResolvedCheckpoint):
        path_or_name = resolve_name(str(path_or_name))
    path = path_or_name.path
    state, metadata = read(path)
    architecture = architecture_of(state, metadata, path)
    try:
        with torch.device("meta"):  # without initial weights: they are assigned below
            network = Restormer(architecture)
    except MALFORMED as error:
        raise _not_a_restormer(path, str(error)) from error
    _check_fit(state, network.state_dict(), path)
    for name, tensor in state.items():
        if not np.isfinite(tensor.numpy()).all():
            raise CheckpointError(
                f"{path}: `{name}` contains NaN or infinity",
                "Use another checkpoint: the file is damaged, or its training diverged.",
            )
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def read(path: Path) -> tuple[State, dict[str, str]]:
    """Return the tensors of a checkpoint in fp32 and its safetensors metadata.

    Wrappers around the weights are removed. Code in the file is not executed.

    Raises:
        CheckpointError: the file cannot be read, or contains no weights.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise unreadable_error(path, error) from error
    metadata: dict[str, str] = {}
    if head[5:9] == b"\0\0\0{":  # safetensors: length of the header (8 bytes), then JSON
        content, metadata = _read_safetensors(path)
    elif problem := _identify(head):
        cause, hint = problem
        raise CheckpointError(f"{path}: {cause}", hint)
    else:
        content = _read_pickle(path, zipped=head.startswith(b"PK"))
    return _unwrap(content, path), metadata


def architecture_of(
    state: State, metadata: dict[str, str] | None = None, path: Path = Path("the checkpoint")
) -> Architecture:
    """Return the architecture from `metadata["architecture"]` (JSON), or else from the shapes.

    Raises:
        CheckpointError: it is not a Restormer network.
    """
    try:
        if described := (metadata or {}).get("architecture"):
            return Architecture.from_dict(json.loads(described))
        return _architecture_from_shapes(state)
    except KeyError as error:
        raise _not_a_restormer(path, f"no {error} among its {len(state)} tensors") from error
    except MALFORMED as error:
        raise _not_a_restormer(path, str(error)) from error


def save_network(
    state: State,
    architecture: Architecture,
    path: Path,
    *,
    record: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Save weights as safetensors, completely or not at all.

    Args:
        state: state dict of a network.
        architecture: architecture of the network, stored in the metadata.
        path: file to write; an existing one is replaced.
        record: provenance of the weights (steps, data, scores) as JSON-serializable values.
        dtype: type of the stored weights; float16 halves the file.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors = {
        name: tensor.detach().to("cpu", dtype, copy=True).contiguous()
        for name, tensor in state.items()
    }
    metadata = {"format": "pt", "architecture": json.dumps(architecture.as_dict())}
    if record is not None:
        metadata["record"] = json.dumps(record)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, safetensors.torch.save(tensors, metadata))
    except (OSError, safetensors.SafetensorError) as error:
        raise unwritable_error(path, error) from error


def _identify(head: bytes) -> tuple[str, str] | None:
    """Return cause and remedy for a file that is not a checkpoint, by its first bytes."""
    start = head.lstrip().lower()
    if not head:
        return "the file is empty", "Download it again."
    if start.startswith(b"version https://git-lfs"):
        return (
            "a git-lfs pointer, not the weights themselves",
            "Run `git lfs pull` in its repository, or download the file itself.",
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return (
            "a web page, not a checkpoint",
            "Download the file itself: the link led to a page, such as a login or an error.",
        )
    if not head.startswith((b"PK", b"\x80")):
        return "not a checkpoint", "Use a PyTorch (.pth, .pt) or safetensors file."
    return None


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        guard = MemoryGuard(f"to load {path}", kind=CheckpointError)
        with guard, safetensors.safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a dict
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path, *, zipped: bool) -> Any:
    try:
        with MemoryGuard(f"to load {path}", kind=CheckpointError), warnings.catch_warnings():
            # torch warns about old formats, which the user cannot change.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except MALFORMED as error:
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path}: refused, because reading it would run code ({code[1]})",
                "Ask its author for the weights alone: a state dict, or safetensors.",
            ) from error
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> CheckpointError:
    cause = first_line(error).split(". ")[0]
    return CheckpointError(
        f"{path}: damaged or cut short ({cause})", "Download or copy the file again."
    )


def _unwrap(content: Any, path: Path) -> State:
    """Return the tensors by name, without wrappers and prefixes."""
    while isinstance(content, dict):
        wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), dict)), None)
        if wrapper is not None:
            content = content[wrapper]
        elif content and all(str(key).startswith("module.") for key in content):
            content = {key.removeprefix("module."): value for key, value in content.items()}
        else:
            break
    if not isinstance(content, dict) or not content:
        raise CheckpointError(
            f"{path}: contains no state dict", "Use a file with the weights of a network."
        )
    others = [
        k for k, v in content.items() if not (isinstance(v, Tensor) and v.is_floating_point())
    ]
    if others:
        raise CheckpointError(
            f"{path}: {_enumerate(others)} of its {len(content)} entries are not weights",
            f"Store the weights alone, or under one of {', '.join(_WRAPPERS)}.",
        )
    # Always copied: a memory-mapped file may be overwritten while the network is in use.
    return {name: tensor.to(torch.float32, copy=True) for name, tensor in content.items()}


def _check_fit(state: State, expected: State, path: Path) -> None:
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    findings = {
        "{} missing": [name for name in expected if name not in state],
        "{} unexpected": [name for name in state if name not in expected],
        "wrong shapes: {}": shapes,
    }
    problems = [text.format(_enumerate(names)) for text, names in findings.items() if names]
    if problems:
        raise CheckpointError(
            f"{path}: the weights do not fit the network: {'; '.join(problems)}",
            "Use another checkpoint: the file is incomplete or contains another network.",
        )


def _enumerate(names: list[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(map(str, names[:_MAX_NAMED])) + (f" and {more} more" if more > 0 else "")


def _not_a_restormer(path: Path, cause: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: not a Restormer network ({cause})", "Use the checkpoint of a Restormer network."
    )


def _architecture_from_shapes(state: State) -> Architecture:
    levels = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
    dim, in_channels = state["patch_embed.proj.weight"].shape[:2]
    hidden = [state[f"{level}.0.ffn.project_in.weight"].shape[0] // 2 for level in levels]
    b1, b2, b3, b4 = (_count_blocks(state, level) for level in levels)
    h1, h2, h3, h4 = (state[f"{level}.0.attn.temperature"].shape[0] for level in levels)
    return Architecture(
        in_channels=in_channels,
        out_channels=state["output.weight"].shape[0],
        dim=dim,
        blocks=(b1, b2, b3, b4),
        refinement=_count_blocks(state, "refinement"),
        heads=(h1, h2, h3, h4),
        expansion=_expansion([dim * 2**level for level in range(LEVELS)], hidden),
        bias="encoder_level1.0.attn.qkv.bias" in state,
        layer_norm="WithBias" if "encoder_level1.0.norm1.body.bias" in state else "BiasFree",
        dual_pixel="skip_conv.weight" in state,
    )


def _count_blocks(state: State, stage: str) -> int:
    return len({name.split(".")[1] for name in state if name.startswith(f"{stage}.")})


def _expansion(channels: list[int], hidden: list[int]) -> float:
    """Return the shortest decimal f with int(c * f) == h at every level.

    Many factors give the same widths. The shortest decimal is the likely choice of an author: 2.66
    for the published networks, not 2.6589.
    """
    least = max(Fraction(h, c) for c, h in zip(channels, hidden, strict=True))
    for digits in range(10):
        scale: int = 10**digits
        factor = math.ceil(least * scale) / scale
        if [int(c * factor) for c in channels] == hidden:
            return factor
    raise ValueError(f"hidden widths {hidden} at {channels} channels have no common expansion")
