"""The command that checks the kernels in a process of its own; needs neither Triton nor a GPU."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from restormer_cli.inference.fusion.verdict import Verdict
from restormer_cli.inference.triton import check
from restormer_cli.network import Architecture


@pytest.mark.parametrize(("device", "current"), [("cuda", []), ("cuda:0", [0]), ("cuda:1", [1])])
def test_the_check_runs_on_the_named_gpu(monkeypatch, device, current):
    """A GPU with a number becomes the current one; "cuda" is the current one already."""
    a = Architecture(dim=16, heads=(1, 2, 2, 4))
    chosen, checked = [], []

    def set_device(device):
        chosen.append(torch.cuda._utils._get_device_index(device))  # raises if it has no number

    def record(_, *arguments):
        checked.append(arguments)
        return Verdict("")

    kernels = SimpleNamespace(TritonKernels=lambda: None)
    launch = SimpleNamespace(compile_together=lambda calls: None)
    monkeypatch.setitem(sys.modules, f"{check.__package__}.blocks", kernels)
    monkeypatch.setitem(sys.modules, f"{check.__package__}.launch", launch)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(check, "check", record)
    assert check.main(device, "bf16", json.dumps(a.as_dict())) == Verdict("")
    assert chosen == current
    assert checked == [(a, torch.bfloat16, torch.device(device))]
