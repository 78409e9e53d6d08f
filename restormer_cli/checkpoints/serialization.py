"""Checkpoint files: read strictly into a network, and written."""

from __future__ import annotations

import json
import math
import os
import pickle
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
from ..network import LEVELS, Architecture, Restormer
from .resolve import ResolvedCheckpoint, find, resolve_checkpoint

__all__ = [
    "ResolvedCheckpoint",
    "architecture_of",
    "load_network",
    "read",
    "read_network",
    "resolve_checkpoint",
    "save_network",
]

State = dict[str, Tensor]

_WRAPPERS = ("params_ema", "params", "state_dict")
"""Keys that training codes put around the weights. Where both are there, the average (EMA) is
what its authors restore images with."""

_NAMED = 3
"""How many keys a message spells out before it only counts."""

# What torch.load raises for a damaged file, whatever the damage hits: the archive, the pickle's
# instructions, or the tensors' bytes.
_DAMAGED = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OSError,
)

# What comes of building a network from shapes or metadata that are not a Restormer's.
_NONSENSE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


def load_network(path_or_name: str | Path | ResolvedCheckpoint) -> Restormer:
    """The network of a task, an official checkpoint or a file: on the CPU, fp32, eval mode.

    Args:
        path_or_name: a task ("denoise": the official checkpoint, or the bundled lite weights and
            a warning if it cannot be had), an official checkpoint ("deraining"), a path,
            "hf:ORG/REPO/FILE[@REV]", or what `resolve` found.

    Raises:
        CheckpointError: it cannot be had, or is no Restormer.
    """
    found = path_or_name if isinstance(path_or_name, ResolvedCheckpoint) else find(path_or_name)
    return read_network(found.path)


def read_network(path: Path) -> Restormer:
    """The network that a checkpoint file holds: on the CPU, in fp32, in eval mode.

    Raises:
        CheckpointError: the file is no checkpoint, no Restormer, or not whole.
    """
    state, metadata = read(path)
    architecture = architecture_of(state, metadata, path)
    try:
        with torch.device("meta"):  # neither memory nor random numbers for what is replaced at once
            network = Restormer(architecture)
    except _NONSENSE as error:
        raise _not_a_restormer(path, str(error)) from error
    _check_fit(state, network.state_dict(), path)
    for name, tensor in state.items():
        if not np.isfinite(tensor.numpy()).all():
            raise CheckpointError(
                f"{path}: `{name}` holds NaN or infinity",
                "Its training diverged or the file is damaged: use another checkpoint.",
            )
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def read(path: Path) -> tuple[State, dict[str, str]]:
    """The tensors of a checkpoint in fp32, without wrappers, and its safetensors metadata.

    Nothing in the file is executed: pickles go through `torch.load(weights_only=True)`.

    Raises:
        CheckpointError: it cannot be read as weights.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file", "Check the path.") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder", "Name the checkpoint file in it.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}", "See that it can be read.") from error

    metadata: dict[str, str] = {}
    if head[5:9] == b"\0\0\0{":  # safetensors: the header's length (8 bytes), then JSON
        content, metadata = _read_safetensors(path)
    elif problem := _impostor(head):
        raise CheckpointError(f"{path}: {problem[0]}", problem[1])
    else:
        content = _read_pickle(path, zipped=head.startswith(b"PK"))
    return _plain(content, path), metadata


def _impostor(head: bytes) -> tuple[str, str] | None:
    """What a file is that bears a checkpoint's name but is none, and the remedy."""
    start = head.lstrip().lower()
    if not head:
        return "the file is empty", "Download it again."
    if start.startswith(b"version https://git-lfs"):
        return (
            "a git-lfs pointer, not the weights themselves",
            "Run `git lfs pull` where it came from, or download the file itself.",
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return (
            "a web page, not a checkpoint",
            "The link led to a page (a login or an error, perhaps): download the file itself.",
        )
    if not head.startswith((b"PK", b"\x80")):
        return "not a checkpoint", "restormer reads PyTorch (.pth, .pt) and safetensors files."
    return None


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - it is no dict
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path, *, zipped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            # torch warns of old formats and protocols, of which the user can change nothing.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path}: refused, because reading it would run code ({code[1]})",
                "Ask its author for the weights alone: a state dict, or safetensors.",
            ) from error
        raise _damaged(path, error) from error
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> CheckpointError:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
    return CheckpointError(
        f"{path}: damaged or cut short ({cause})", "Download it again, or copy it anew."
    )


def _plain(content: Any, path: Path) -> State:
    """The name-to-tensor dict inside wrappers and prefixes, nested as they may be."""
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
            f"{path}: holds no state dict", "restormer needs a network's weights."
        )
    strange = [
        k for k, v in content.items() if not (isinstance(v, Tensor) and v.is_floating_point())
    ]
    if strange:
        raise CheckpointError(
            f"{path}: {_some(strange)} of its {len(content)} entries are no weights",
            f"Weights lie at the top or under one of {', '.join(_WRAPPERS)}.",
        )
    # A copy also where the type fits: else the network would go on reading a file mapped into
    # memory, which anyone may overwrite meanwhile.
    return {name: tensor.to(torch.float32, copy=True) for name, tensor in content.items()}


def _check_fit(state: State, expected: State, path: Path) -> None:
    problems = []
    if missing := [name for name in expected if name not in state]:
        problems.append(f"{_some(missing)} missing")
    if unexpected := [name for name in state if name not in expected]:
        problems.append(f"{_some(unexpected)} unexpected")
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if shapes:
        problems.append(f"wrong shapes: {_some(shapes)}")
    if problems:
        raise CheckpointError(
            f"{path}: the weights do not fit the network: {'; '.join(problems)}",
            "The file is of another network, or incomplete.",
        )


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(map(str, names[:_NAMED])) + (f" and {more} more" if more > 0 else "")


# --- which network the weights are of -----------------------------------------------------------


def architecture_of(
    state: State, metadata: dict[str, str] | None = None, path: Path = Path("the checkpoint")
) -> Architecture:
    """What network `state` is of: said by `metadata["architecture"]` (JSON), else seen in shapes.

    Raises:
        CheckpointError: it is no Restormer's.
    """
    try:
        if described := (metadata or {}).get("architecture"):
            return Architecture.from_dict(json.loads(described))
        return _architecture_from_shapes(state)
    except KeyError as error:
        raise _not_a_restormer(path, f"no {error} among its {len(state)} tensors") from error
    except _NONSENSE as error:
        raise _not_a_restormer(path, str(error)) from error


def _not_a_restormer(path: Path, cause: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: not a Restormer network ({cause})", "restormer runs Restormer networks only."
    )


def _architecture_from_shapes(state: State) -> Architecture:
    levels = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
    dim, in_channels = state["patch_embed.proj.weight"].shape[:2]
    hidden = [state[f"{level}.0.ffn.project_in.weight"].shape[0] // 2 for level in levels]
    b1, b2, b3, b4 = (_blocks(state, level) for level in levels)
    h1, h2, h3, h4 = (state[f"{level}.0.attn.temperature"].shape[0] for level in levels)
    return Architecture(
        in_channels=in_channels,
        out_channels=state["output.weight"].shape[0],
        dim=dim,
        blocks=(b1, b2, b3, b4),
        refinement=_blocks(state, "refinement"),
        heads=(h1, h2, h3, h4),
        expansion=_expansion([dim * 2**level for level in range(LEVELS)], hidden),
        bias="encoder_level1.0.attn.qkv.bias" in state,
        layer_norm="WithBias" if "encoder_level1.0.norm1.body.bias" in state else "BiasFree",
        dual_pixel="skip_conv.weight" in state,
    )


def _blocks(state: State, stage: str) -> int:
    """How many blocks a stage has, from the numbers in their names."""
    prefix = f"{stage}."
    return len({name.split(".")[1] for name in state if name.startswith(prefix)})


def _expansion(channels: list[int], hidden: list[int]) -> float:
    """The shortest decimal f with int(c * f) == h at every level.

    A whole interval of factors gives the same widths; the shortest decimal in it is what a person
    would have typed: 2.66 for the published networks, though 2.6589 would do as well.
    """
    least = max(Fraction(h, c) for c, h in zip(channels, hidden, strict=True))
    for digits in range(10):
        scale: int = 10**digits
        factor = math.ceil(least * scale) / scale
        if [int(c * factor) for c in channels] == hidden:
            return factor
    raise ValueError(f"hidden widths {hidden} at {channels} channels have no common expansion")


# --- writing ------------------------------------------------------------------------------------


def save_network(
    state: State,
    architecture: Architecture,
    path: Path,
    *,
    record: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write weights as safetensors, complete or not at all.

    Args:
        state: a network's state dict.
        architecture: what it is the state of; goes into the metadata.
        path: where to; replaced if it is there.
        record: how the weights came to be (steps, data, scores), as JSON-able values.
        dtype: what the weights are stored in; float16 halves the file.

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
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not save_file, which leaves files that only their owner may read.
        partial.write_bytes(safetensors.torch.save(tensors, metadata))
        partial.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error})", "Check that its folder has room and is yours."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
