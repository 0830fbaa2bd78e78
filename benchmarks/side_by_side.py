"""Compare this checkout with an older one: `python -m benchmarks.side_by_side OLD_CHECKOUT [--quick]`.

Both run in subprocesses with the same Python, on the CPU. The script prints one row per check and exits with 1 if any
result differs: values and gradients of all losses, a training run, a resumed run, the commands that read a checkpoint,
and the exit codes of wrong calls. Times, file sizes, digests and overlay images are not compared.
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
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rmrkd_cli.terminal.console import print_table
from rmrkd_cli.terminal.messages import log

ROLES = ("teacher", "baseline", "distill")
STOP_AT = 4  # iterations, of the run that is interrupted
TIMEOUT = 7200  # seconds for one command
IGNORED_KEYS = (
    "seconds",
    "latency",
    "elapsed",
    "peak_memory",
    "bytes",
    "sha256",
    "taught_by",
    "_ms",
)  # parts of JSON keys
STUDENT, BASELINE = "../old/runs/distill/student.pth", "../old/runs/baseline/student.pth"
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

Ended = tuple[int, str, str]  # exit code, stdout, stderr
Row = tuple[str, str, str]  # check, what was compared, difference ("" if none)
Rows = Generator[Row, None, None]


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

    def call(self, function: Callable[[str], None]) -> Any:
        """Run a function of this file in the checkout, and load the file that it saves."""
        target = self.folder / f"{function.__name__}.pth"
        finish(self.start("-c", f"{inspect.getsource(function)}\n{function.__name__}({str(target)!r})"), (0,))
        return torch.load(target, weights_only=True)


Sides = tuple[Side, ...]


def finish(process: subprocess.Popen[str], codes: tuple[int, ...]) -> Ended:
    """Wait for a process; return exit code, stdout and stderr. Raise RuntimeError if the code is not in `codes`."""
    out, err = process.communicate(timeout=TIMEOUT)
    if codes and process.returncode not in codes:
        raise RuntimeError(f"`{str(process.args)[:300]}` ended with {process.returncode}: {err[-1500:]}")
    return process.returncode, out, err


def rmrkd(sides: Sides, *arguments: object, codes: tuple[int, ...] = (0,)) -> list[Ended]:
    """Run a command of rmrkd in all sides at the same time; `codes` are the permitted exit codes, () for any."""
    processes = [side.start("-m", "rmrkd_cli", *arguments) for side in sides]
    return [finish(process, codes) for process in processes]


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
            several = str(getattr(parameters.get("student_channels"), "annotation", "")).startswith("tuple")
            on_logits = "student_channels" not in parameters or options.get("on_logits")
            channels = [[classes], [classes]] if on_logits else [[8, 6], [12, 10]] if several else [[8], [12]]
            sizes = [tuple(side) if several else side[0] for side in channels]
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


def compare_losses(sides: Sides) -> Rows:
    old, new = [side.call(save_losses) for side in sides]
    for name in sorted({label.partition(",")[0] for label in {**old, **new}}):
        cases = [{label: one[label] for label in one if label.partition(",")[0] == name} for one in (old, new)]
        yield f"loss {name}", f"value and gradients, {len(cases[1])} cases", first_difference(cases[0], cases[1])


def train_command(role: str, iters: int, work_dir: Path | str, *options: object) -> list[object]:
    return ["train", "--preset", "demo", "--role", role, "--max-iters", iters, "--seed", 0, "--device", "cpu",
            "--workers", 0, "--set", "schedule.log_interval=1", "--work-dir", work_dir, *options]  # fmt: skip


def compare_training(sides: Sides, iters: int) -> Rows:
    if not all((side.folder / "runs" / "distill" / "result.json").is_file() for side in sides):
        log("training in both checkouts")
        rmrkd(sides, *train_command("all", iters, "runs"))
    for role in ROLES:
        for name, load in {"log.jsonl": load_log, "result.json": load_json, "student.pth": load_student}.items():
            files = [side.folder / "runs" / role / name for side in sides]
            yield f"train {role}", f"{name}, {iters} iterations", compare_files(files, load)


def compare_resuming(sides: Sides, iters: int) -> Rows:
    """Stop a run of the old version, resume it with the new one, and compare it with the uninterrupted run."""
    old, new = sides
    reference, work_dir = old.folder / "runs" / "distill", old.folder.parent / "resumed"
    shutil.rmtree(work_dir, ignore_errors=True)
    teacher = ("--teacher-checkpoint", old.folder / "runs" / "teacher" / "student.pth")
    log_file = work_dir / "distill" / "log.jsonl"
    process = old.start("-m", "rmrkd_cli", *train_command("distill", iters, work_dir, *teacher))
    while process.poll() is None and not any(line.get("iter", 0) >= STOP_AT for line in load_log(log_file)):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    finish(process, (128 + signal.SIGTERM,))
    what = f"stopped by the old version after {load_log(log_file)[-1]['iter']} of {iters} iterations"
    command = train_command("distill", iters, work_dir, *teacher, "--resume")
    [(code, _, err)] = rmrkd((new,), *command, codes=(0, 2))
    if code == 2:
        yield "resume", f"{what}, refused by the new one", "" if err.startswith("error:") else "no message"
        return
    for name, load in {"log.jsonl": load_log, "student.pth": load_state}.items():
        yield "resume", f"{what}, {name}", compare_files([reference / name, log_file.with_name(name)], load)


def compare_commands(sides: Sides, quick: bool) -> Rows:
    """Run the commands that read a checkpoint on the students of the old version."""
    images = next(path for path in (sides[0].folder / "cache").rglob("*.png") if "val" in path.parts).parent
    device = ("--device", "cpu", "--workers", 0)
    some = (*device, "--max-images", 12)
    averaged = ("--mode", "slide", "--crop", 256, "--flip", "--scales", "0.75,1")
    commands: dict[str, list[object]] = {
        "eval": ["eval", STUDENT, *some],
        "eval, windows averaged": ["eval", STUDENT, *some, *averaged],
        "compare": ["compare", BASELINE, STUDENT, *some],
        "export .pt": ["export", STUDENT, "exported.pt", "--force"],
        "export .onnx": ["export", STUDENT, "exported.onnx", "--force"],
    }
    for name, command in commands.items():
        if not (quick and "onnx" in name):
            old, new = (json.loads(out) for _, out, _ in rmrkd(sides, *command, "--json", "-"))
            yield name, "JSON", first_difference(old, new)
    rmrkd(sides, "transfer", "../old/runs/distill/last.pth", "transferred.pth", "--force")
    for side in sides:
        shutil.rmtree(side.folder / "predicted", ignore_errors=True)
    rmrkd(sides, "predict", STUDENT, images, "--out", "predicted", *device)
    for check, name, load in (
        ("transfer", "transferred.pth", load_state),
        ("predict", "predicted/predictions.json", load_json),
        ("predict", "predicted/predictions.csv", Path.read_text),
        ("predict", "predicted", load_label_maps),
        ("export .pt", "exported.pt", run_torchscript),
        ("export .onnx", "exported.onnx", run_onnx),
    ):
        if not (quick and load is run_onnx):
            yield check, name, compare_files([side.folder / name for side in sides], load)


def compare_wrong_calls(sides: Sides) -> Rows:
    for side in sides:
        (side.folder / "text.pth").write_text("no checkpoint")
        (side.folder / "text.json").write_text("no record")
    for call in WRONG_CALLS:
        old, new = (code for code, _, _ in rmrkd(sides, *call.split(), codes=()))
        yield f"rmrkd {call.replace(STUDENT, 'STUDENT')}", f"exit code {new}", "" if old == new else f"{old} and {new}"


def compare_files(paths: Sequence[Path], load: Callable[[Path], Any]) -> str:
    """Return the first difference between the contents of two files or folders; "" if none."""
    return first_difference(load(paths[0]), load(paths[1]))


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


def load_student(path: Path) -> dict[str, Any]:
    """Return metadata and tensors of a run's student.pth, without the name of the side's folder."""
    contents = torch.load(path, weights_only=True, map_location="cpu")
    contents["meta"] = json.loads(json.dumps(contents["meta"]).replace(str(path.parents[2]), "SIDE"))
    return contents  # type: ignore[no-any-return]


def load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def load_log(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a log; none if it does not exist yet."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def load_label_maps(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*.png") if "overlay" not in path.name and path.name != "legend.png")
    return {str(path.relative_to(folder)): np.asarray(Image.open(path)) for path in files}


def random_image() -> Any:
    return np.random.default_rng(0).integers(0, 256, (1, 3, 120, 160), np.uint8)


def run_torchscript(path: Path) -> Any:
    """Return the output for a random image, and the tensors in the file."""
    module = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return [module(torch.from_numpy(random_image())), dict(module.state_dict())]


def run_onnx(path: Path) -> Any:
    """Return the output for a random image."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": random_image()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD_CHECKOUT", help="folder of the older version")
    parser.add_argument("--quick", action="store_true", help="train 2 iterations; skip resuming and ONNX")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the runs in DIR, and reuse them if they exist")
    options = parser.parse_args()
    root = options.keep or Path(tempfile.mkdtemp(prefix="rmrkd-side-by-side-"))
    checkouts = {"old": options.old, "new": Path(__file__).parents[1]}
    sides = tuple(Side(checkout.resolve(), (root / name).resolve()) for name, checkout in checkouts.items())
    for side in sides:
        side.folder.mkdir(parents=True, exist_ok=True)
    iters = 2 if options.quick else 2 * STOP_AT
    checks = [compare_losses(sides), compare_training(sides, iters)]
    checks += [] if options.quick else [compare_resuming(sides, iters)]
    checks += [compare_commands(sides, options.quick), compare_wrong_calls(sides)]
    rows: list[Row] = []
    for check in checks:
        try:
            for row in check:
                log(": ".join(part for part in row if part))
                rows.append(row)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            rows.append(("failed", "", str(error)))
    if options.keep is None:
        shutil.rmtree(root)
    different = sum(bool(problem) for _, _, problem in rows)
    table = [[name, what, problem or "equal"] for name, what, problem in rows]
    print_table("Old and new", ["check", "compared", "result"], table, [f"{different} of {len(rows)} checks differ"])
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
