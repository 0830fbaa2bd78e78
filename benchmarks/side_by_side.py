"""Compare this checkout with an older one: `python -m benchmarks.side_by_side OLD_CHECKOUT [--quick]`.

Both run in subprocesses with the same Python, on the CPU. The script prints one row per check and exits with 1 if any
result differs: values and gradients of all losses, a training run, a resumed run, the commands that read a checkpoint,
and the exit codes of wrong calls. Times, file sizes and overlay images are not compared.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rmrkd_cli.terminal.console import say, show_table

ROLES = ("teacher", "baseline", "distill")
STOP_AT = 4  # iterations, of the run that is interrupted
TIMEOUT = 900  # seconds for one command
IGNORED_KEYS = ("seconds", "latency", "elapsed", "memory", "bytes", "_ms")  # parts of JSON keys
STUDENT, BASELINE = "../old/work/distill/student.pth", "../old/work/baseline/student.pth"
WRONG_CALLS = (
    "nonsense",
    "train --preset nonsense",
    "train --preset demo --max-iters 0",
    "train --preset demo --set losses.rmrkd.tau=-1",
    "train --preset demo --set no.such.key=1",
    "train --preset demo --method nonsense",
    "eval missing.pth",
    "eval text.pth",
    f"eval {STUDENT} --scales 0",
    f"eval {STUDENT} --crop 32",
    f"eval {STUDENT} --dataset camvid --data-root missing",
    f"compare {STUDENT}",
    "compare text.json text.json",
    "transfer missing.pth out.pth",
    f"transfer {STUDENT} text.pth",
    f"export {STUDENT} out.xyz",
    f"predict {STUDENT} missing.png --out new",
    f"predict {STUDENT} text.pth --out new",
    "methods nonsense",
)

Rows = Iterator[tuple[str, str, str]]  # check, what was compared, difference ("" if none)


@dataclass(frozen=True)
class Side:
    """A checkout, and the folder in which its commands run."""

    checkout: Path
    folder: Path

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start a Python process that imports this checkout."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RMRKD_")}
        environment |= {"PYTHONPATH": str(self.checkout), "RMRKD_CACHE": str(self.folder / "cache")}
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)], cwd=self.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def rmrkd(self, *arguments: object, codes: tuple[int, ...] = (0,)) -> tuple[int, str, str]:
        """Run a command; return exit code, stdout and stderr. Raise RuntimeError if the code is not in `codes`."""
        process = self.start("-m", "rmrkd_cli", *arguments)
        out, err = process.communicate(timeout=TIMEOUT)
        if codes and process.returncode not in codes:
            raise RuntimeError(
                f"`rmrkd {' '.join(map(str, arguments))}` ended with {process.returncode}: {err[-1500:]}"
            )
        return process.returncode, out, err

    def call(self, function: Callable[[str], None]) -> Any:
        """Run a function of this file in the checkout, and load the file that it saves."""
        target = self.folder / f"{function.__name__}.pth"
        process = self.start("-c", f"{inspect.getsource(function)}\n{function.__name__}({str(target)!r})")
        _, err = process.communicate(timeout=TIMEOUT)
        if process.returncode:
            raise RuntimeError(f"{function.__name__} failed in `{self.checkout}`: {err[-1500:]}")
        return torch.load(target, weights_only=True)


def save_losses(target: str) -> None:
    """Save value and gradients of every loss, with its defaults and with each boolean option changed, in two steps."""
    import inspect

    import torch

    from rmrkd_cli.losses import LOSSES

    classes, results = 5, {}
    for name, loss_class in sorted(LOSSES.items()):
        parameters = inspect.signature(loss_class).parameters
        flags = [key for key, parameter in parameters.items() if isinstance(parameter.default, bool)]
        for changed in (None, *flags):
            options = {key: parameters[key].default != (key == changed) for key in flags}
            channels = (((classes,), (classes,)), ((8,), (12,)))["student_channels" in parameters]
            if options.get("on_logits"):
                channels = (classes,), (classes,)
            several = "tuple" in str(getattr(parameters.get("student_channels"), "annotation", ""))
            if several:
                channels = (8, 6), (12, 10)
            sizes = [side if several else side[0] for side in channels]
            options |= {"student_channels": sizes[0], "teacher_channels": sizes[1], "num_classes": classes}
            torch.manual_seed(1)
            loss = loss_class(**{key: value for key, value in options.items() if key in parameters})
            for step in (0, 1):  # the second step uses the memory that the first one filled
                torch.manual_seed(2 + step)
                student, teacher = (tuple(torch.randn(2, count, 24, 20) for count in side) for side in channels)
                student = tuple(maps.requires_grad_() for maps in student)
                labels = torch.randint(0, classes, (2, 1, 48, 40))
                labels = labels.masked_fill(torch.rand(labels.shape) < 0.1, 255)
                values = loss(*((student, teacher) if several else (student[0], teacher[0])), labels)
                values = list(values.values()) if isinstance(values, dict) else [values]
                inputs = [*student, *(parameter for parameter in loss.parameters() if parameter.requires_grad)]
                gradients = torch.autograd.grad(torch.stack(values).sum(), inputs, allow_unused=True)
                label = f"{name}, step {step}" + (f", {changed} changed" if changed else "")
                results[label] = {f"value {index}": value.detach() for index, value in enumerate(values)}
                results[label] |= {f"gradient {i}": one for i, one in enumerate(gradients) if one is not None}
    torch.save(results, target)


def first_difference(old: Any, new: Any, path: str = "") -> str:
    """Return the first difference between two nested structures of tensors, arrays and JSON values; "" if none."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            if any(part in str(key) for part in IGNORED_KEYS):
                continue
            if key not in old or key not in new:
                return f"{path}/{key} is missing"
            if text := first_difference(old[key], new[key], f"{path}/{key}"):
                return text
        return ""
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        if len(old) != len(new):
            return f"{path}: {len(old)} and {len(new)} entries"
        pairs = enumerate(zip(old, new, strict=True))
        return next((text for index, pair in pairs if (text := first_difference(*pair, f"{path}/{index}"))), "")
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        old, new = old.numpy(), new.numpy()
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        equal = old.dtype == new.dtype and old.shape == new.shape and old.tobytes() == new.tobytes()
        return "" if equal else f"{path}: tensors differ"
    return "" if old == new else f"{path}: {str(old)[:60]} and {str(new)[:60]}"


def load_state(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    return state


def load_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def compare_files(old: Path, new: Path, load: Callable[[Path], Any]) -> str:
    """Return the first difference between the contents of two files or folders; "" if none."""
    return first_difference(load(old), load(new))


def load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def compare_losses(old: Side, new: Side) -> Rows:
    values = [side.call(save_losses) for side in (old, new)]
    for name in sorted({label.partition(",")[0] for one in values for label in one}):
        ours = [{label: held for label, held in one.items() if label.partition(",")[0] == name} for one in values]
        yield f"loss {name}", f"value and gradients, {len(ours[1])} cases", first_difference(*ours)


def compare_training(old: Side, new: Side, iters: int) -> Rows:
    for side in (old, new):
        say(f"training in {side.checkout}")
        side.rmrkd(
            "train", "--preset", "demo", "--role", "all", "--max-iters", iters, "--seed", 0, "--device", "cpu",
            "--workers", 0, "--set", "schedule.log_interval=1", "--work-dir", "work",
        )  # fmt: skip
    for role in ROLES:
        runs = [side.folder / "work" / role for side in (old, new)]
        files = {"log.jsonl": load_log, "result.json": load_json, "student.pth": load_state}
        for name, load in files.items():
            yield f"train {role}", f"{name}, {iters} iterations", compare_files(*(run / name for run in runs), load)


def compare_resuming(old: Side, new: Side, iters: int) -> Rows:
    """Stop a run of the old version, resume it with the new one, and compare it with the uninterrupted run."""
    teacher = old.folder / "work" / "teacher" / "student.pth"
    command = [
        "train", "--preset", "demo", "--role", "distill", "--max-iters", iters, "--seed", 0, "--device", "cpu",
        "--workers", 0, "--set", "schedule.log_interval=1", "--teacher-checkpoint", teacher,
        "--work-dir", old.folder.parent / "resumed",
    ]  # fmt: skip
    run = old.folder.parent / "resumed" / "distill"
    process = old.start("-m", "rmrkd_cli", *command)
    while process.poll() is None and not any(line.get("iter") == STOP_AT for line in _lines(run / "log.jsonl")):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=TIMEOUT)
    if process.returncode != 128 + signal.SIGTERM:
        raise RuntimeError(f"the run of the old version was not interrupted: {process.returncode} {err[-1500:]}")
    stopped = _lines(run / "log.jsonl")[-1]["iter"]
    code, _, err = new.rmrkd(*command, "--resume", codes=(0, 2))
    what = f"stopped by the old version at {stopped} of {iters}"
    if code == 2:
        yield "resume", f"{what}, refused by the new one", "" if err.startswith("error:") else "no message"
        return
    reference = old.folder / "work" / "distill"
    for name, load in {"log.jsonl": load_log, "student.pth": load_state}.items():
        yield "resume", f"{what}, {name}", compare_files(reference / name, run / name, load)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a log that is being written."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def compare_commands(old: Side, new: Side, quick: bool) -> Rows:
    """Run the commands that read a checkpoint on the students of the old version."""
    sides = (old, new)
    images = next((old.folder / "cache").rglob("val"))
    images = images if any(images.glob("*.png")) else next(images.rglob("*.png")).parent
    device = ("--device", "cpu", "--workers", 0)
    averaged = ("--mode", "slide", "--crop", 64, "--flip", "--scales", "0.75,1", "--max-images", 8)
    for name, command in {
        "eval": ["eval", STUDENT, *device],
        "eval, windows averaged": ["eval", STUDENT, *device, *averaged],
        "compare": ["compare", BASELINE, STUDENT, *device],
    }.items():
        yield name, "JSON", first_difference(*(json.loads(side.rmrkd(*command, "--json", "-")[1]) for side in sides))
    for side in sides:
        side.rmrkd("transfer", "../old/work/distill/last.pth", "transferred.pth")
        side.rmrkd("predict", STUDENT, images, "--out", "predicted", *device)
    files = {"transferred.pth": load_state, "predicted/predictions.json": load_json,
             "predicted/predictions.csv": Path.read_text, "predicted": load_label_maps}  # fmt: skip
    for name, load in files.items():
        yield (
            "transfer" if load is load_state else "predict",
            name,
            compare_files(*(side.folder / name for side in sides), load),
        )
    for suffix in (".pt",) if quick else (".pt", ".onnx"):
        records = [json.loads(side.rmrkd("export", STUDENT, f"exported{suffix}", "--json", "-")[1]) for side in sides]
        yield f"export {suffix}", "JSON", first_difference(*records)
        files = [side.folder / f"exported{suffix}" for side in sides]
        yield f"export {suffix}", "outputs for a random image", compare_files(*files, run_exported)


def load_label_maps(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*.png") if "overlay" not in path.name and path.name != "legend.png")
    return {str(path.relative_to(folder)): np.asarray(Image.open(path)) for path in files}


def run_exported(path: Path) -> Any:
    """Return what an exported file computes for a random image, and its tensors if it is TorchScript."""
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 120, 160), np.uint8)
    if path.suffix == ".pt":
        module = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
        return [module(torch.from_numpy(image)), dict(module.state_dict())]
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": image})


def compare_wrong_calls(old: Side, new: Side) -> Rows:
    for side in (old, new):
        (side.folder / "text.pth").write_text("no checkpoint")
        (side.folder / "text.json").write_text("no record")
    for call in WRONG_CALLS:
        codes = [side.rmrkd(*call.split(), codes=())[0] for side in (old, new)]
        problem = "" if codes[0] == codes[1] else f"{codes[0]} and {codes[1]}"
        yield f"rmrkd {call.replace(STUDENT, 'STUDENT')}", f"exit code {codes[1]}", problem


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD_CHECKOUT", help="folder of the older version")
    parser.add_argument("--quick", action="store_true", help="train 2 iterations; skip resuming and ONNX")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the runs, and print its name")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="rmrkd-side-by-side-"))
    old, new = Side(options.old.resolve(), root / "old"), Side(Path(__file__).resolve().parents[1], root / "new")
    for side in (old, new):
        side.folder.mkdir()
    iters = 2 if options.quick else 2 * STOP_AT
    rows: list[tuple[str, str, str]] = []
    checks = [compare_losses(old, new), compare_training(old, new, iters)]
    checks += [] if options.quick else [compare_resuming(old, new, iters)]
    checks += [compare_commands(old, new, options.quick), compare_wrong_calls(old, new)]
    for check in checks:
        for row in check:
            say(": ".join(part for part in row if part))
            rows.append(row)
    if options.keep:
        say(f"kept: {root}")
    else:
        shutil.rmtree(root)
    different = sum(bool(row[2]) for row in rows)
    table = [[name, what, problem or "equal"] for name, what, problem in rows]
    show_table("Old and new", ["check", "compared", "result"], table, [f"{different} of {len(rows)} checks differ"])
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
