"""The tables of tasks and checkpoints, and the choice of a checkpoint."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from restormer_cli.checkpoints import catalog
from restormer_cli.errors import UsageError


@pytest.mark.parametrize(
    ("task", "options", "name"),
    [
        ("denoise", {}, "real_denoising"),
        ("denoise", {"noise": "real"}, "real_denoising"),
        ("denoise", {"noise": "gaussian"}, "gaussian_color_denoising_blind"),
        ("denoise", {"sigma": "blind"}, "gaussian_color_denoising_blind"),
        ("denoise", {"sigma": "15"}, "gaussian_color_denoising_sigma15"),
        ("denoise", {"noise": "gaussian", "sigma": "50"}, "gaussian_color_denoising_sigma50"),
        ("denoise", {"gray": True}, "gaussian_gray_denoising_blind"),
        ("denoise", {"gray": True, "sigma": "25"}, "gaussian_gray_denoising_sigma25"),
        ("derain", {}, "deraining"),
        ("deblur", {}, "motion_deblurring"),
        ("defocus", {}, "single_image_defocus_deblurring"),
        ("defocus", {"dual_pixel": True}, "dual_pixel_defocus_deblurring"),
    ],
)
def test_a_query_selects_the_published_checkpoint(task, options, name):
    """Each published combination of options gives its checkpoint."""
    assert catalog.CheckpointQuery(task, **options).checkpoint.name == name


@pytest.mark.parametrize(
    ("task", "options", "complaint"),
    [
        ("denoise", {"noise": "real", "sigma": "25"}, "--noise real and --sigma"),
        ("denoise", {"noise": "real", "gray": True}, "--noise real and --gray"),
        ("denoise", {"noise": "salt"}, "noise is 'salt'"),
        ("denoise", {"sigma": "30"}, "sigma is '30'"),
        ("denoise", {"sigma": 25}, "sigma is 25"),
        ("denoise", {"dual_pixel": True}, "two views and denoise"),
        ("derain", {"sigma": "25"}, "--sigma and derain"),
        ("deblur", {"noise": "real"}, "--noise and deblur"),
        ("dehaze", {}, "no task is called 'dehaze'"),
    ],
)
def test_a_combination_without_a_checkpoint_is_refused(task, options, complaint):
    """The error is a usage error with a remedy."""
    with pytest.raises(UsageError, match=complaint) as raised:
        _ = catalog.CheckpointQuery(task, **options).checkpoint
    assert raised.value.hint
    assert raised.value.exit_status == 2


def test_there_are_thirteen_checkpoints():
    """The table contains all official files, and every task's default is one of them."""
    assert len(catalog.CHECKPOINTS) == 13
    assert {task.official for task in catalog.TASKS.values()} <= set(catalog.CHECKPOINTS)
    assert {c.task for c in catalog.CHECKPOINTS.values()} == set(catalog.TASKS)


def test_every_published_combination_is_in_the_table():
    """Noise, sigma and gray select all nine denoising checkpoints and no others."""
    gaussian = {
        catalog.CheckpointQuery("denoise", sigma=sigma, gray=gray).checkpoint.name
        for sigma in catalog.SIGMAS
        for gray in (False, True)
    }
    denoising = {c.name for c in catalog.CHECKPOINTS.values() if c.task == "denoise"}
    assert gaussian | {"real_denoising"} == denoising


def test_hashes_are_well_formed():
    """Hashes are 64 hexadecimal digits and unique."""
    hashes = [c.sha256 for c in catalog.CHECKPOINTS.values() if c.sha256]
    assert len(hashes) == len(set(hashes)) == 7
    assert all(re.fullmatch(r"[0-9a-f]{64}", h) for h in hashes)
    assert re.fullmatch(r"[0-9a-f]{40}", catalog.HUB_REVISION)


def test_only_motion_deblurring_is_missing_on_the_hub():
    """The only file that the Hub repository lacks is marked."""
    assert [c.name for c in catalog.CHECKPOINTS.values() if not c.on_hub] == ["motion_deblurring"]


def test_the_tables_need_no_torch():
    """Help texts can be built from the tables without importing torch."""
    code = "import sys, restormer_cli.checkpoints.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603
