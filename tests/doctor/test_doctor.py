"""`rmrkd doctor`: what it finds here, and each fault that it must tell from what is well."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rmrkd_cli.doctor import machine, packages, training
from rmrkd_cli.doctor.check import Check
from rmrkd_cli.installation import mmseg
from rmrkd_cli.installation.requirements import install_command, reinstall_command
from rmrkd_cli.terminal import console
from tests.helpers.cli import rmrkd

ROOT = Path(__file__).parents[2]
Patch = pytest.MonkeyPatch
Usage = namedtuple("Usage", "total used free")
EVERYWHERE = (
    *("rmrkd", "command", "Python", "torch", "mmcv-full", "mmsegmentation", "numpy", "conflicts", "imports"),
    *("CPU", "memory", "shared memory", "distributed training"),
    *("work folder", "cache folder", "temporary files", "cache", "presets", "training on CPU"),
)


def look(*options: str, step: bool = False) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Exit code, and the checks by name."""
    done = rmrkd("doctor", "--json", "-", *options, *([] if step else ["--no-step"]))
    record = json.loads(done.stdout)
    named: dict[str, list[dict[str, str]]] = {}
    for check in record["checks"]:
        named.setdefault(check["name"], []).append(check)
        assert check["status"] in ("ok", "warning", "error")
        assert check["fix"] or check["status"] != "error", check
    assert record["errors"] == sum(check["status"] == "error" for check in record["checks"])
    return done.exit_code, named


def versions(monkeypatch: Patch, **changed: str | None) -> None:
    """Distributions by name (`_` for `-`) as they are not."""
    real = importlib.metadata.version
    fakes = {name.replace("_", "-"): version for name, version in changed.items()}

    def version(name: str) -> str:
        if name not in fakes:
            return real(name)
        found = fakes[name]
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    mmseg.require_mmseg.cache_clear()
    monkeypatch.setattr(importlib.metadata, "version", version)


def test_this_environment_has_no_errors(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "SECONDS", 0.3)
    monkeypatch.chdir(tmp_path)
    code, found = look(step=True)
    assert [check for checks in found.values() for check in checks if check["status"] == "error"] == []
    assert code == 0
    for name in EVERYWHERE:
        assert len(found[name]) == 1, name
        assert found[name][0]["found"]
    assert re.search(r"^[0-9.]+ steps/s .* ce [0-9.]+, .*rmrkd .*mgd .*dkd", found["training on CPU"][0]["found"])
    assert found["Python"][0]["found"].startswith("3.")
    assert list(tmp_path.iterdir()) == []


def test_printed_list_and_json_file(tmp_path: Path) -> None:
    done = rmrkd("doctor", "--no-step", "--json", tmp_path / "found.json")
    record = json.loads((tmp_path / "found.json").read_text())
    assert list(tmp_path.iterdir()) == [tmp_path / "found.json"]
    assert done.stdout.splitlines()[-1].endswith(f"{len(record['checks'])} checks")
    assert "training" not in done.stdout.splitlines()  # the heading of its checks
    for check in record["checks"]:
        assert re.search(rf"^{check['status']} +{re.escape(check['name'])} ", done.stdout, re.MULTILINE)
    again = rmrkd("doctor", "--no-step", "--json", tmp_path / "found.json")
    assert again.exit_code == 2
    assert "already exists" in again.message


@pytest.mark.parametrize(
    ("changed", "name", "found", "fix"),
    [
        ({"mmsegmentation": None}, "mmsegmentation", "not installed", "^rmrkd setup$"),
        ({"torch": "2.4.1"}, "torch", "2.4.1", "install.* 'torch>=2.10'"),
        ({"mmcv_full": "1.6.0"}, "mmcv-full", "1.6.0", "^rmrkd setup$"),
        ({"numpy": "1.26.4"}, "numpy", "1.26.4", "install.* 'numpy>=2.0'"),
        ({"mmcv": "2.1.0"}, "conflicts", "mmcv 2.1.0", "uninstall.* mmcv mmcv-full && rmrkd setup$"),
        ({"mmcv_lite": "2.1.0"}, "conflicts", "mmcv-lite 2.1.0", "uninstall.* mmcv-lite"),
        ({"opencv_python_headless": "4.8.0"}, "conflicts", "opencv-python-headless 4.8.0", "uninstall.*headless"),
        ({"rmrkd": "0.0.1"}, "rmrkd", "installed as 0.0.1", "install "),
        ({"rmrkd": None}, "rmrkd", "not installed", "install "),
    ],
)
def test_wrong_versions(monkeypatch: Patch, changed: dict[str, str | None], name: str, found: str, fix: str) -> None:
    versions(monkeypatch, **changed)
    code, checks = look()
    [check] = checks[name]
    assert (code, check["status"]) == (1, "error")
    assert found in check["found"]
    assert check["expected"]
    assert re.search(fix, check["fix"])


def test_versions_worth_a_warning(monkeypatch: Patch) -> None:
    versions(monkeypatch, torch="2.99.0+cu130")
    code, checks = look()
    assert code == 0
    assert checks["torch"][0]["status"] == "warning"
    assert "tested with" in checks["torch"][0]["expected"]


def test_a_backport_that_hides_pythons_module_is_an_error(monkeypatch: Patch, tmp_path: Path) -> None:
    versions(monkeypatch, typing="3.10.0.0")
    assert look()[0] == 0
    hiding = type("Module", (), {"__file__": str(tmp_path / "typing.py")})
    monkeypatch.setitem(packages.sys.modules, "typing", hiding)  # type: ignore[attr-defined]
    [check] = packages._check_conflicts()
    assert (check.status, check.found) == ("error", "typing 3.10.0.0")


def test_tested_versions_equal_the_pinned_ones() -> None:
    pinned = dict(re.findall(r'"(torch\w*)==([0-9.]+);', (ROOT / "pyproject.toml").read_text()))
    assert pinned == {name: packages.TESTED[name] for name in ("torch", "torchvision")}


@pytest.mark.parametrize(
    ("module", "error", "fix"),
    [
        ("cv2", ImportError("libGL.so.1: cannot open shared object file"), "apt-get install libgl1"),
        ("torch", OSError("libcudart.so.13: cannot open"), "--force-reinstall --no-deps torch"),
        ("mmseg.models", RuntimeError("undefined symbol\nand more"), "rmrkd setup --reinstall"),
    ],
)
def test_imports_that_fail(monkeypatch: Patch, module: str, error: Exception, fix: str) -> None:
    real = importlib.import_module

    def failing(name: str, *rest: Any) -> Any:
        if name == module:
            raise error
        return real(name, *rest)

    monkeypatch.setattr(packages.importlib, "import_module", failing)  # type: ignore[attr-defined]
    code, checks = look(step=True)
    [check] = checks[f"import {module}"]
    assert (code, check["status"]) == (1, "error")
    assert check["found"] == f"{type(error).__name__}: {str(error).splitlines()[0]}"
    assert fix in check["fix"]
    assert checks["training"][0]["status"] == "warning"  # not looked at
    if module == "mmseg.models":  # which GPUs are looked at without
        assert "GPUs" not in checks
    else:
        assert checks["GPUs"][0]["status"] == "warning"


def test_mmcv_is_missing(monkeypatch: Patch) -> None:
    monkeypatch.setitem(packages.sys.modules, "mmcv", None)  # type: ignore[attr-defined]
    monkeypatch.delitem(packages.sys.modules, "mmcv._ext", raising=False)  # type: ignore[attr-defined]
    versions(monkeypatch, mmcv_full=None)
    code, checks = look()
    assert code == 1
    assert checks["import mmcv"][0]["fix"] == "rmrkd setup"
    assert "import mmseg.models" not in checks


def fill_disk(monkeypatch: Patch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 10**6))


def forbid_writing(monkeypatch: Patch) -> None:
    real = Path.open

    def denied(path: Path, *args: Any, **options: Any) -> Any:
        if path.name.startswith(".rmrkd-doctor"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", denied)


@pytest.mark.parametrize("fault", [fill_disk, forbid_writing])
def test_folders_that_cannot_be_used(monkeypatch: Patch, fault: Callable[[Patch], None]) -> None:
    fault(monkeypatch)
    code, checks = look()
    assert code == 1
    fixes = {"work folder": "--work-dir", "cache folder": "RMRKD_CACHE=", "temporary files": "TMPDIR="}
    for name, fix in fixes.items():
        assert checks[name][0]["status"] == "error"
        assert fix in checks[name][0]["fix"]


def test_a_file_instead_of_the_cache_folder(monkeypatch: Patch, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path / "cache"))
    code, checks = look()
    assert (code, checks["cache folder"][0]["status"]) == (1, "error")


def test_the_size_of_the_cache_is_reported(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path / "cache"))
    assert look()[1]["cache"][0]["found"] == "empty"
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache" / "checkpoints").mkdir(parents=True)
    (tmp_path / "cache" / "checkpoints" / "a.pth").write_bytes(b"x" * 3_000_000)
    (tmp_path / "cache" / "checkpoints" / ".b.pth.01234567.partial").write_bytes(b"x" * 1_000_000)
    code, checks = look()
    assert code == 0
    assert re.search(r"checkpoints 4\.0 MB", checks["cache"][0]["found"])
    assert ".b.pth.01234567.partial` 1.0 MB" in checks["unfinished downloads"][0]["found"]


def test_a_step_that_is_not_finite(monkeypatch: Patch) -> None:
    monkeypatch.setattr(training, "_train", lambda device: (1.0, {"ce": 2.0, "rmrkd": float("nan")}))
    code, checks = look(step=True)
    [check] = checks["training on CPU"]
    assert (code, check["status"], check["found"]) == (1, "error", "not finite on random images: rmrkd")


def test_losses_are_checked_in_every_step(monkeypatch: Patch) -> None:
    from rmrkd_cli.losses import RMRKDLoss

    def poisoned(self: RMRKDLoss, student: Any, *_: Any) -> Any:
        return student.sum() * float("inf")

    monkeypatch.setattr(RMRKDLoss, "forward", poisoned)
    assert training._check_training("CPU", "cpu").found == "not finite on random images: rmrkd"


def test_a_step_that_fails(monkeypatch: Patch) -> None:
    def fails(device: str) -> Any:
        raise RuntimeError("CUDA error: no kernel image\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(training, "_train", fails)
    code, checks = look(step=True)
    assert (code, checks["training on CPU"][0]["found"]) == (1, "RuntimeError: CUDA error: no kernel image")


def test_a_damaged_preset(monkeypatch: Patch, tmp_path: Path) -> None:
    import rmrkd_cli.presets.loader as presets

    folder = tmp_path / "presets"
    shutil.copytree(presets.preset_dir(), folder)
    (folder / "demo.yaml").write_text("dataset: [")
    monkeypatch.setattr(presets, "preset_dir", lambda: folder)
    code, checks = look()
    assert (code, checks["preset demo"][0]["status"]) == (1, "error")


def test_an_unexpected_error_is_reported_and_stops_no_other_check(monkeypatch: Patch) -> None:
    monkeypatch.setattr(machine, "_check_memory", lambda: 1 / 0)
    code, checks = look()
    assert code == 1
    assert "ZeroDivisionError" in checks["machine"][0]["found"]
    assert checks["presets"][0]["status"] == "ok"


def test_little_memory(monkeypatch: Patch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 1 << 30)
    monkeypatch.setattr(machine, "_SHARED_MEMORY", Path("/nowhere\x1b[2J"))
    code, checks = look()
    assert code == 0
    assert [checks[name][0]["status"] for name in ("memory", "shared memory")] == ["warning"] * 2
    assert "\x1b" not in rmrkd("doctor", "--no-step").stdout


@pytest.mark.parametrize("value", ["1", ""])
def test_disabled_bytecode_is_a_warning(monkeypatch: Patch, value: str) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", value)
    found = [check for check in packages.package_checks() if check.name == "bytecode"]
    assert [(check.status, check.fix) for check in found] == (
        [("warning", "unset PYTHONDONTWRITEBYTECODE")] if value else []
    )


@pytest.mark.parametrize(
    ("told", "command"),
    [
        ('{"url": "file:///a%20b/c", "dir_info": {"editable": true}}', "install -e '/a b/c'"),
        ('{"url": "file:///c/x.whl", "archive_info": {}}', "install --force-reinstall --no-deps /c/x.whl"),
        (
            '{"url": "https://host/r", "vcs_info": {"vcs": "git"}}',
            "install --force-reinstall --no-deps git+https://host/r",
        ),
        (None, "install CLONE-OR-WHEEL"),
        ("{", "install CLONE-OR-WHEEL"),
    ],
)
def test_the_reinstall_command_names_the_original_source(monkeypatch: Patch, told: str | None, command: str) -> None:
    distribution = namedtuple("Distribution", "read_text version")(lambda _: told, "1.0")
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: distribution)
    assert reinstall_command().endswith(command)


def test_a_missing_module_of_a_dependency(monkeypatch: Patch) -> None:
    """Named once, and installed itself."""
    versions(monkeypatch, pyyaml=None)
    real = importlib.import_module

    def failing(name: str, *rest: Any) -> Any:
        if name.startswith("mm"):
            raise ModuleNotFoundError("No module named 'yaml'", name="yaml")
        return real(name, *rest)

    monkeypatch.setattr(packages.importlib, "import_module", failing)  # type: ignore[attr-defined]
    code, checks = look()
    assert code == 1
    assert checks["import mmcv"][0]["fix"] == install_command("pyyaml")
    assert "import mmseg.models" not in checks


class Cuda:
    """What torch says where a GPU is there and cannot be used, or can."""

    def __init__(
        self, available: bool, built: str | None = "13.0", arches: tuple[str, ...] = ("sm_80", "sm_90")
    ) -> None:
        facts = namedtuple("Facts", "name major minor")("NVIDIA H100", 9, 0)
        version = namedtuple("Version", "cuda hip")(built, None)
        self.cuda = self.distributed = self._C = self
        self.version, self.__version__ = version, "2.15.0"
        self.nccl = namedtuple("Nccl", "version")(lambda: (2, 27, 3))
        self.is_available = lambda: available
        self.device_count = lambda: 1
        self.get_device_properties = lambda _: facts
        self.mem_get_info = lambda _: (70 << 30, 80 << 30)
        self.is_bf16_supported = lambda **_: True
        self.get_arch_list = lambda: list(arches)
        self.is_nccl_available = self.is_gloo_available = lambda: True
        self._cuda_getDriverVersion = lambda: 13010

    def device(self, _: int) -> Any:
        from contextlib import nullcontext

        return nullcontext()

    def init(self) -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040)\nPlease update")


def gpu_checks(monkeypatch: Patch, torch: Cuda) -> list[Check]:
    monkeypatch.setattr(machine.importlib, "import_module", lambda _: torch)
    return list(machine.gpu_checks())


def test_a_gpu_that_works(monkeypatch: Patch) -> None:
    driver, gpu, ways = gpu_checks(monkeypatch, Cuda(True))
    assert {check.status for check in (driver, gpu, ways)} == {"ok"}
    assert driver.found == "torch built with CUDA 13.0, driver for CUDA up to 13.1"
    assert gpu.found == "NVIDIA H100, 70.0 GiB free of 80.0, compute capability 9.0, bf16"
    assert ways.found == "NCCL 2.27.3, gloo"


@pytest.mark.parametrize(
    ("arches", "status"),
    [(("sm_70", "sm_80"), "error"), (("sm_80", "compute_80"), "ok"), (("sm_90a",), "ok"), (("sm_100",), "error")],
)
def test_a_gpu_that_torch_was_not_built_for(monkeypatch: Patch, arches: tuple[str, ...], status: str) -> None:
    assert gpu_checks(monkeypatch, Cuda(True, arches=arches))[1].status == status


@pytest.mark.parametrize(
    ("built", "hidden", "status", "found"),
    [
        ("13.0", None, "error", "driver on your system is too old"),
        (None, None, "error", "built for CPUs only"),
        ("13.0", "", "warning", "hidden by CUDA_VISIBLE_DEVICES=''"),
    ],
)
def test_a_gpu_that_torch_does_not_find(
    monkeypatch: Patch, built: str | None, hidden: str | None, status: str, found: str
) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    check = gpu_checks(monkeypatch, Cuda(False, built))[0]
    assert check.status == status
    assert found in check.found
    assert check.fix


def test_a_narrow_terminal(monkeypatch: Patch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console.out, "width", 60)
    console.print_check("error", "CPU", "word " * 20, "a [bold] thing\x1b[2J", "a long command " * 6)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line.rstrip()) <= 60 for line in lines[:-1])
    assert "[bold]" in "".join(lines)
    assert "\\x1b" in "".join(lines)
    assert lines[-1].strip() == f"fix: {'a long command ' * 6}".strip()
