from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.run import train
from tests.evaluation.mmseg_side import MmsegSide
from tests.helpers import trees
from tests.helpers.cli import rmrkd

TEST_TOOL = """
import runpy, sys
from pathlib import Path
from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable
make_mmseg_importable()
import mmseg
runpy.run_path(str(Path(mmseg.__file__).parent / ".mim/tools/test.py"), run_name="__main__")
"""


@pytest.mark.parametrize("dataset", ["camvid", pytest.param("voc12aug", marks=pytest.mark.slow)])
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


@pytest.fixture(scope="module")
def student(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained until it tells some classes apart."""
    work = tmp_path_factory.mktemp("student")
    overrides = ["role=baseline", "schedule.iters=40", "schedule.eval_interval=40", "schedule.checkpoint_interval=40"]
    train(load_preset(str(tiny), overrides=overrides), work, "cpu", Cluster())
    return work / "baseline" / "student.pth"


@pytest.fixture(scope="module")
def mmseg_side(student: Path) -> MmsegSide:
    return MmsegSide(student)


SCALES, WINDOW = (0.75, 1.0, 1.25), ((40, 56), (26, 37))
SLIDE = ("--mode", "slide", "--crop", "40x56", "--stride", "26x37")
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "whole": ({}, ()),
    "flip": ({"flip": True}, ("--flip",)),
    "scales": ({"scales": SCALES}, ("--scales", "0.75,1.0,1.25")),
    "slide": ({"window": WINDOW}, SLIDE),
    "slide, scales, flip": (
        {"window": WINDOW, "scales": SCALES, "flip": True}, (*SLIDE, "--scales", "0.75,1.0,1.25", "--flip")
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_protocol_is_mmsegs(case: str, student: Path, mmseg_side: MmsegSide, tmp_path: Path) -> None:
    """To the last digit that mmsegmentation prints; and the same class at every pixel but for rounding."""
    said, options = CASES[case]
    theirs, maps = mmseg_side.measure(**said)
    outcome = rmrkd("eval", student, "--device", "cpu", "--json", "-", "--save-predictions", tmp_path / "p", *options)
    record = json.loads(outcome.stdout)
    ours = {name: round(100 * record["metrics"][name.lower()], 2) for name in ("mIoU", "mAcc", "aAcc")}
    assert ours == {name: round(100 * theirs[name], 2) for name in ours}
    guesses = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "p").iterdir())]
    different = sum(int((guess != other).sum()) for guess, other in zip(guesses, maps, strict=True))
    assert different <= 1e-3 * sum(other.size for other in maps)
    assert len(np.unique(np.stack(guesses))) >= 3
    protocol = record["protocol"]
    assert (protocol["mode"], protocol["flip"]) == ("slide" if "window" in said else "whole", "flip" in said)
    window = [list(pair) for pair in said["window"]] if "window" in said else [None, None]
    assert [protocol.get("window"), protocol.get("stride")] == window
