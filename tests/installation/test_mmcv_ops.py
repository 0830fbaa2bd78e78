from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.presets.loader import load_preset
build_network(network_config(load_preset("demo").student, 8), device="cpu")
print([name for name in ("torchvision", "torch._dynamo", "mmseg.apis") if name in sys.modules])
import mmcv.runner.checkpoint as checkpoint
print(len(checkpoint.get_torchvision_models()) > 50, "torchvision" in sys.modules)
"""


@pytest.mark.slow
def test_networks_are_built_without_torchvision_and_mmcv_still_finds_it() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True True"]
