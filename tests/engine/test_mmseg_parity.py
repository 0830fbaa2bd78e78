from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rmrkd_cli.commands.train import train
from rmrkd_cli.engine.cluster import Cluster
from rmrkd_cli.presets import load_preset
from tests import trees
from tests.cli import rmrkd

TEST_TOOL = """
import runpy, sys
from pathlib import Path
from rmrkd_cli.mmcv_ops import make_mmseg_importable
make_mmseg_importable()
import mmseg
runpy.run_path(str(Path(mmseg.__file__).parent / ".mim/tools/test.py"), run_name="__main__")
"""


@pytest.mark.parametrize("dataset", ["camvid", "voc12aug"])
def test_mmsegs_own_tool_measures_the_same(dataset: str, tiny: Path, tmp_path: Path) -> None:
    """CamVid ignores id 11, VOC 255 and reads a list of names: both through the config inside the student's file."""
    overrides = ["role=baseline", "schedule.iters=3"]
    if dataset == "voc12aug":
        root = trees.voc12aug(tmp_path / "voc")
        overrides += ["dataset=voc12aug", f"data.root={root}"]
    train(load_preset(str(tiny), overrides=overrides), tmp_path, "cpu", Cluster())
    student, config = tmp_path / "student.pth", tmp_path / "student.py"
    assert rmrkd("transfer", tmp_path / "baseline" / "last.pth", student, "--config", config).exit_code == 0
    tool = subprocess.run(
        [sys.executable, "-c", TEST_TOOL, str(config), str(student), "--eval", "mIoU"],
        check=True, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    theirs = re.search(r"\|\s*([\d.]+)\s*\|\s*([\d.]+)\s*\|\s*([\d.]+)\s*\|\s*\+-", tool.stdout.split("Summary")[1])
    assert theirs is not None
    ours = rmrkd("eval", student, "--device", "cpu").stdout
    row = next(line for line in ours.splitlines() if "student" in line or "baseline" in line).split()
    miou, macc, aacc = row[1:4]
    assert [float(value) for value in theirs.groups()] == [float(aacc), float(miou), float(macc)]
