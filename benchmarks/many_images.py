"""Measure how long `rmrkd train` takes to its first step, and how much memory, by the number of images.

`python -m benchmarks.many_images` writes MANY_IMAGES.md. It makes the images as hard links and tar archives in a
temporary folder below `--folder`, which takes 2 GB for a million images.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from benchmarks.machine import date_and_commit, describe_machine
from benchmarks.processes import rmrkd
from rmrkd_cli.data import demo
from rmrkd_cli.presets.loader import load_preset

HERE = Path(__file__).parent
COUNTS = (10_000, 100_000, 1_000_000)
FEW = 100  # images of the start that the others are compared with
_SOURCES = 64  # different images; a file system allows 65,000 links to each
_SHARD = 10_000  # images an archive
_VALIDATION = 8
_SECONDS = 0.25  # between looks at the processes
KINDS = ("labelled folder", "unlabelled folder", "tar archives, first start", "tar archives")


@dataclass
class Start:
    """A start of `rmrkd train`, until its first step.

    Attributes:
        seconds: Wall time.
        cpu: Seconds of processor time of all processes.
        memory: Largest sum over all processes, in bytes; pages that several share count once (PSS).
    """

    seconds: float
    cpu: float
    memory: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)), help="numbers of images, separated by commas")
    parser.add_argument("--folder", type=Path, help="where the images are made; default: the system's temporary folder")
    parser.add_argument("--output", type=Path, default=HERE / "MANY_IMAGES.md")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        os.environ["RMRKD_CACHE"] = str(root / "cache")
        make_sources(root)
        teacher = train_teacher(root)
        starts = {}
        for count in (FEW, *map(int, options.counts.split(","))):
            make_images(root, count)
            for kind in KINDS[:1] if count == FEW else KINDS:
                starts[kind, count] = one = measure_start(preset_file(root, kind, count, teacher), root / "work")
                print(f"{count} images, {kind}: {one.seconds:.1f} s, {one.cpu:.1f} s of CPU, {one.memory / 1e9:.2f} GB")
            shutil.rmtree(root / str(count))
    options.output.write_text(report(starts, load), encoding="utf-8")
    return 0


def make_sources(root: Path) -> None:
    """Write the images and label maps that all others are links to; 32x32, so that archives stay small."""
    for number in range(_SOURCES):
        image, label = demo.draw(np.random.default_rng([0, number]))
        for folder, suffix, pixels in (("image", ".jpg", image), ("label", ".png", label)):
            (root / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(root / folder / f"{number}{suffix}"), pixels[::4, ::4])


def make_images(root: Path, count: int) -> None:
    """Make `count` images with label maps in folders, and the images alone in tar archives."""
    base = root / str(count)
    for folder in ("images", "masks", "val", "valmasks", "shards"):
        (base / folder).mkdir(parents=True)
    contents = [(root / f"image/{number}.jpg").read_bytes() for number in range(_SOURCES)]
    for number in range(count + _VALIDATION):
        images, masks = ("images", "masks") if number < count else ("val", "valmasks")
        os.link(root / f"image/{number % _SOURCES}.jpg", base / images / f"{number:08d}.jpg")
        os.link(root / f"label/{number % _SOURCES}.png", base / masks / f"{number:08d}.png")
    for first in range(0, count, _SHARD):
        with tarfile.open(base / f"shards/{first // _SHARD:03d}.tar", "w") as archive:
            for number in range(first, min(first + _SHARD, count)):
                member = tarfile.TarInfo(f"{number:08d}.jpg")
                member.size = len(contents[number % _SOURCES])
                archive.addfile(member, BytesIO(contents[number % _SOURCES]))
                archive.members.clear()  # type: ignore[attr-defined]  # else all headers stay in memory


def base_preset() -> dict[str, Any]:
    """Return the preset of the demo for one step of a distillation on logits, the only kind without labels."""
    preset = load_preset("demo").model_dump(mode="json", exclude_none=True, exclude={"title", "name", "paper"})
    preset |= {"role": "distill", "method": "kd", "losses": {"kd": {"type": "kd", "weight": 1.0, "stage": "logits"}}}
    preset["schedule"] |= {"iters": 3, "eval_interval": 3, "checkpoint_interval": 3, "log_interval": 1}
    return preset


def train_teacher(root: Path) -> Path:
    """Train the demo's teacher for one step: its quality does not matter here."""
    options = ["--role", "teacher", "--max-iters", "1", "--work-dir", str(root / "teacher"), "--device", "cpu"]
    subprocess.run([str(rmrkd()), "train", "--preset", "demo", *options], check=True, capture_output=True)
    return root / "teacher/teacher/student.pth"


def preset_file(root: Path, kind: str, count: int, teacher: Path) -> Path:
    """Write the preset of a measurement."""
    preset = base_preset()
    train = {"images": "images", "labels": "masks" if kind.startswith("labelled") else "none"}
    if kind.startswith("tar"):
        train["images"] = "shards/*.tar"
    preset |= {"name": "many", "dataset": "custom"}
    preset["data"] = {
        "root": str(root / str(count)), "train": train, "val": {"images": "val", "labels": "valmasks"},
        "classes": list(demo.CLASSES), "train_scale": [128, 128], "ratio_range": [0.75, 1.5],
    }  # fmt: skip
    preset["teacher"] |= {"checkpoint": {"path": str(teacher)}, "min_miou": 0.0}
    path = root / "many.yaml"
    path.write_text(yaml.safe_dump(preset))
    return path


def measure_start(preset: Path, work_dir: Path, command: tuple[str, ...] = ()) -> Start:
    """Run a training until its first step, and stop it.

    Args:
        command: What starts rmrkd; default: the script of this environment.
    """
    shutil.rmtree(work_dir, ignore_errors=True)
    options = ["train", "--preset", str(preset), "--work-dir", str(work_dir), "--device", "cpu"]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([*(command or [str(rmrkd())]), *options], stdout=output, stderr=output)
        memory, cpu = 0, 0.0
        while not any('"losses"' in log.read_text() for log in work_dir.rglob("log.jsonl")):
            pids = list(process_tree(process.pid))
            memory, cpu = max(memory, sum(map(shared_memory, pids))), max(cpu, sum(map(cpu_seconds, pids)))
            if process.poll() is not None:
                output.seek(0)
                raise RuntimeError(f"rmrkd ended before its first step: {output.read()[-3000:]}")
            time.sleep(_SECONDS)
        seconds = time.monotonic() - began
        process.wait()
    return Start(seconds, cpu, memory)


def process_tree(pid: int) -> Iterator[int]:
    """Yield a process and all that it has started and that still run."""
    yield pid
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _read(file).split():
            yield from process_tree(int(child))


def shared_memory(pid: int) -> int:
    """Return the proportional set size of a process in bytes; 0 if it has ended."""
    lines = _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and of the children that have ended."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # the process has ended
        return ""


def report(starts: dict[tuple[str, int], Start], load: float) -> str:
    """Return the page with all measurements."""
    few = starts[KINDS[0], FEW]
    machine = describe_machine("cpu")
    lines = [
        "# Starting with many images",
        "",
        "Written by `python -m benchmarks.many_images`. Time and memory from the start of `rmrkd train` to the first",
        "step of a distillation with the demo's networks on a CPU, over all of its processes. CPU is processor time.",
        "Memory is the largest sum of the processes' PSS, which counts shared pages once. The first start with tar",
        f"archives reads their headers; later ones read the index. With {FEW} labelled images a start takes",
        f"{few.seconds:.1f} s, {few.cpu:.1f} s of CPU and {few.memory / 1e9:.2f} GB.",
        "",
        f"{date_and_commit()}; {machine['CPU']}, {machine['RAM']}; {machine['software']}.",
        f"Load average on the machine before the measurement, by other programs: {load:.1f}.",
        "",
        "| images | kept in | time | CPU | memory |",
        "|---:|---|---:|---:|---:|",
    ]
    for (kind, count), one in sorted(starts.items(), key=lambda item: (item[0][1], KINDS.index(item[0][0]))):
        lines.append(f"| {count:,} | {kind} | {one.seconds:.1f} s | {one.cpu:.1f} s | {one.memory / 1e9:.2f} GB |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
