"""Settings of a restorer: constants that are repeated to keep PyTorch out of their module."""

from __future__ import annotations

import pytest

from restormer_cli import network
from restormer_cli.inference import config, devices
from tests.support.program import python


def test_repeated_constants_equal_their_originals() -> None:
    """Precisions and the multiple of tile sides are those of the devices and the network."""
    assert ("auto", *devices.PRECISIONS) == config.PRECISIONS
    assert config.MULTIPLE == network.MULTIPLE


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "status"), [(["missing.png"], 1), (["missing.png", "--tile", "x"], 2)]
)
def test_pytorch_is_not_imported_for_wrong_usage(arguments: list[str], status: int) -> None:
    """Missing inputs and invalid options are reported before PyTorch is loaded."""
    code = (
        "import sys\nfrom restormer_cli.cli import main\n"
        f"try: main({['denoise', *arguments]!r})\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    stdout, _ = python("-c", code).communicate()
    assert stdout.decode().split() == [str(status), "False"]
