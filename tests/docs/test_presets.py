"""Every YAML block is a preset, or a part of one, that the schema accepts."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.training.network_check import check_networks
from tests.docs.pages import NOT_A_PRESET, Block, all_blocks, inline_code

MINIMAL: dict[str, Any] = {
    "dataset": "demo",
    "teacher": {"config": "pspnet/pspnet_r18-d8_512x1024_80k_cityscapes.py"},
    "student": {"config": "pspnet/pspnet_r18-d8_512x1024_80k_cityscapes.py"},
}
PRESETS = [block for block in all_blocks("yaml") if block.above != NOT_A_PRESET]


@pytest.mark.parametrize("block", PRESETS, ids=str)
def test_a_yaml_block_is_accepted_by_the_schema(block: Block) -> None:
    raw = yaml.safe_load(block.text)
    preset = Preset.model_validate({**MINIMAL, **raw})
    for network in (preset.teacher, preset.student):
        assert network.library != "mmseg" or network.config in shipped_configs()
    if preset.dataset == "custom" or "title" in raw:
        assert preset.losses


@pytest.mark.parametrize("block", [block for block in PRESETS if block.title], ids=str)
def test_a_whole_preset_begins_with_the_command_that_runs_it(block: Block) -> None:
    assert block.text.startswith(f"# rmrkd train --preset {block.title}")
    assert {"dataset", "teacher", "student", "losses"} <= yaml.safe_load(block.text).keys()


@pytest.mark.parametrize("library", ["torchvision", "smp"])
def test_the_losses_of_a_preset_fit_its_networks(library: str) -> None:
    block = next(block for block in PRESETS if block.title == f"{library}.yaml")
    raw = yaml.safe_load(block.text)
    preset = Preset.model_validate(raw)
    check_networks(preset, ["baseline", "distill"], num_classes=11)


def test_configs_named_in_the_text_exist() -> None:
    named = {code for code in inline_code("docs/own-networks.md") if code.endswith(".py") and "/" in code}
    assert not {code for code in named if "_" in code and code not in shipped_configs() and code.count("/") == 1}


def shipped_configs() -> set[str]:
    """Return the configs inside mmsegmentation, found without importing it."""
    package = find_spec("mmseg")
    assert package is not None
    assert package.origin is not None
    root = Path(package.origin).parent / ".mim/configs"
    return {path.relative_to(root).as_posix() for path in root.rglob("*.py")}
