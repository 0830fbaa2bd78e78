"""Every hostile checkpoint against every command that opens one: nothing runs, each ends in a message."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.run_directory import RunDir
from tests.checkpoints.hostile.files import FILES
from tests.checkpoints.hostile.seal import seal
from tests.helpers.forked import run, server

SECONDS, MEGABYTES = 10.0, 2000.0
TRAIN = "train --preset psp18w32-psp18w8-camvid --device cpu --max-iters 2 --work-dir new"
COMMANDS = {
    "transfer": "transfer {file} out.pth",
    "eval": "eval {file} --dataset camvid --data-root {root} --device cpu",
    "compare": "compare {file} {file} --dataset camvid --data-root {root} --device cpu",
    "teacher": TRAIN + " --role distill --data-root {root} --teacher-checkpoint {file}",
    "resume": TRAIN.replace("new", "run") + " --role baseline --data-root {root} --resume",
}


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> multiprocessing.context.ForkServerContext:
    context = server()
    run(context, ["--version"], tmp_path_factory.mktemp("first"), 60)  # the imports are made here, once for all
    return context


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, make in FILES.items():
        path = tmp_path_factory.mktemp(name) / "x.pth"
        make(path)
        made[name] = path if path.exists() else path.with_suffix(".safetensors")
    return made


def contents(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


# `compare` measures a checkpoint through the function that `eval` calls.
SLOW = {"compare": pytest.mark.slow}
PAIRS = [
    pytest.param(name, command, marks=[SLOW[command]] if command in SLOW else [])
    for name in FILES
    for command in COMMANDS
    if command != "resume" or not name.startswith("safetensors")  # a run's directory holds none
]


@pytest.mark.parametrize(("name", "command"), PAIRS)
def test_a_hostile_checkpoint_is_rejected(
    name: str, command: str, hostile: dict[str, Path], camvid: Path, forks: multiprocessing.context.ForkServerContext
) -> None:
    file, folder = hostile[name], hostile[name].parent
    if command == "resume":
        _interrupted_run(folder, camvid, file)
    before = contents(folder)
    end = run(forks, COMMANDS[command].format(file=file.name, root=camvid).split(), folder, 2 * SECONDS)
    assert end.exit_code == 2, end.text
    assert "Traceback" not in end.text
    assert "error: " in end.text
    assert end.seconds < SECONDS
    assert end.megabytes < MEGABYTES
    assert contents(folder) == before
    assert not list(folder.rglob("ran"))


def _interrupted_run(folder: Path, root: Path, file: Path) -> None:
    """A run's directory whose newest checkpoint is the file, with a digest that agrees where it can carry one."""
    overrides = ["role=baseline", f"data.root={root}", "schedule.iters=2", "teacher.schedule.iters=2"]
    files = RunDir(folder / "run" / "baseline")
    files.create(load_preset("psp18w32-psp18w8-camvid", overrides=overrides), fresh=False)
    files.checkpoints.last.write_bytes(seal(file.read_bytes()))
