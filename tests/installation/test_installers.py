"""rmrkd installed from its wheel by old pip, new pip and uv, then `rmrkd setup`, then four steps of training."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmrkd_cli.installation.mmseg import SUPPORT_VERSIONS, VERSIONS
from tests.installation.environments import Environment, build_wheel

pytestmark = pytest.mark.slow
UV = (sys.executable, "-m", "uv")
CONSTRAINT_BY_ENVIRONMENT, CONSTRAINT_BY_OPTION = "pip==23.2.1", "pip>=25.3"
NO_INDEX = "http://127.0.0.1:9/simple"  # nothing listens there


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """For an environment of several GB, removed at once and not with the last three tests' folders."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def trained(environment: Environment, folder: Path) -> str:
    """Train the demo's baseline for four steps; return what was printed."""
    return environment.checked(
        environment.bin / "rmrkd", "train", "--preset", "demo", "--role", "baseline", "--max-iters", "4", "--device",
        "cpu", cwd=folder, RMRKD_CACHE=str(folder / "cache"),
    )  # fmt: skip


def set_up(environment: Environment, folder: Path, *options: object, **variables: str) -> str:
    """Run `rmrkd setup`; it must add what it names, and change nothing else."""
    before = environment.packages(folder)
    told = environment.checked(environment.bin / "rmrkd", "setup", *options, cwd=folder, **variables)
    after = environment.packages(folder)
    assert "mmsegmentation works: built the demo's student" in told
    assert {name: after[name] for name in before} == before
    added = {name: version for name, version in after.items() if name not in before}
    expected = {**VERSIONS, **{name: version for name, version in SUPPORT_VERSIONS.items() if name not in before}}
    assert added == expected
    assert not list(environment.bin.parent.glob("lib/*/site-packages/mmcv/_ext*"))
    assert f"already installed: mmcv-full {VERSIONS['mmcv-full']}" in environment.checked(
        environment.bin / "rmrkd", "setup", cwd=folder
    )
    return told


def refused(environment: Environment, folder: Path) -> None:
    """Without mmsegmentation a command that needs it is refused in a sentence, and the others work."""
    done = environment.run(environment.bin / "rmrkd", "train", "--preset", "demo", cwd=folder)
    assert done.returncode == 2
    needed = "this command needs mmcv-full, mmsegmentation and mmcls, which are not installed"
    assert done.stderr == f"error: {needed}\n\nhint: rmrkd setup\n"
    for words in (["--help"], ["presets"], ["presets", "psp101-psp18-city"], ["methods"]):
        environment.checked(environment.bin / "rmrkd", *words, cwd=folder)


@pytest.mark.parametrize("pip", [CONSTRAINT_BY_ENVIRONMENT, CONSTRAINT_BY_OPTION])
def test_pip_installs_the_wheel_and_setup_the_rest(pip: str, wheel: Path, folder: Path) -> None:
    environment = Environment(folder / "env", pip=True)
    environment.checked(environment.python, "-m", "pip", "install", "--upgrade", pip, cwd=folder)
    environment.checked(environment.python, "-m", "pip", "install", "--no-cache-dir", wheel, cwd=folder)
    refused(environment, folder)
    if pip == CONSTRAINT_BY_OPTION:  # as on a machine without a network, after another one wrote the files
        done = environment.run(environment.bin / "rmrkd", "setup", cwd=folder, PIP_INDEX_URL=NO_INDEX, PIP_RETRIES="0")
        assert done.returncode == 1
        assert "rmrkd setup --from DIR" in done.stderr
        assert "mmcv_full-1.7.2-*.whl" in done.stderr
        wheels = folder / "wheels"
        environment.checked(environment.bin / "rmrkd", "setup", "--download", wheels, cwd=folder)
        set_up(environment, folder, "--from", wheels, PIP_INDEX_URL=NO_INDEX)
        environment.checked(environment.python, "-m", "pip", "uninstall", "-y", *VERSIONS, cwd=folder)
        environment.checked(environment.bin / "rmrkd", "setup", cwd=folder)
    else:
        set_up(environment, folder)
    assert "baseline" in trained(environment, folder)


def test_uv_installs_the_wheel_and_setup_the_rest(wheel: Path, folder: Path) -> None:
    environment = Environment(folder / "env", pip=False)
    environment.checked(*UV, "pip", "install", "--python", environment.python, wheel, cwd=folder)
    refused(environment, folder)
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    assert uv is not None
    assert "with uv" in set_up(environment, folder, UV=uv)
    assert "baseline" in trained(environment, folder)


def test_an_environment_without_pip_and_uv_takes_a_temporary_pip(wheel: Path, folder: Path) -> None:
    environment = Environment(folder / "env", pip=False)
    environment.checked(*UV, "pip", "install", "--python", environment.python, wheel, cwd=folder)
    told = set_up(environment, folder, PATH="/usr/bin:/bin")
    assert "of a temporary environment" in told
