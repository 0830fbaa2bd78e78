"""rmrkd installed from its wheel by old pip, new pip and uv, `rmrkd setup` by each, then four steps of training."""

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


@pytest.fixture(scope="module")
def whole(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """An environment into which uv installed the wheel; of several GB, so that all tests share it."""
    folder = tmp_path_factory.mktemp("whole")
    environment = Environment(folder / "env", pip=False)
    environment.checked(*UV, "pip", "install", "--python", environment.python, wheel, cwd=folder)
    yield environment
    shutil.rmtree(folder)


@pytest.fixture
def environment(whole: Environment, tmp_path: Path) -> Environment:
    """The shared environment with the wheel alone: without what another test added."""
    added = [*VERSIONS, *SUPPORT_VERSIONS, "pip"]
    whole.checked(*UV, "pip", "uninstall", "--python", whole.python, *added, cwd=tmp_path)
    return whole


def install_by_pip(pip: str, environment: Environment, wheel: Path, folder: Path) -> None:
    """Install the wheel by a version of pip, which takes the wheel's requirements that are there already."""
    environment.checked(*UV, "pip", "uninstall", "--python", environment.python, "rmrkd", cwd=folder)
    environment.checked(*UV, "pip", "install", "--python", environment.python, pip, cwd=folder)
    before = environment.packages(folder)
    environment.checked(environment.python, "-m", "pip", "install", "--no-cache-dir", wheel, cwd=folder)
    after = environment.packages(folder)
    assert {name: version for name, version in after.items() if name not in before}.keys() == {"rmrkd"}
    assert {name: after[name] for name in before} == before


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


def test_without_mmsegmentation_a_command_that_needs_it_is_refused(environment: Environment, tmp_path: Path) -> None:
    """In a sentence, and the others work."""
    done = environment.run(environment.bin / "rmrkd", "train", "--preset", "demo", cwd=tmp_path)
    assert done.returncode == 2
    needed = "this command needs mmcv-full, mmsegmentation and mmcls, which are not installed"
    assert done.stderr == f"error: {needed}\n\nhint: rmrkd setup\n"
    for words in (["--help"], ["presets"], ["presets", "psp101-psp18-city"], ["methods"]):
        environment.checked(environment.bin / "rmrkd", *words, cwd=tmp_path)


def test_an_old_pip_builds_under_a_constraint_by_variable(
    environment: Environment, wheel: Path, tmp_path: Path
) -> None:
    install_by_pip(CONSTRAINT_BY_ENVIRONMENT, environment, wheel, tmp_path)
    set_up(environment, tmp_path)
    assert "baseline" in trained(environment, tmp_path)


def test_a_new_pip_builds_under_a_constraint_by_option(environment: Environment, wheel: Path, tmp_path: Path) -> None:
    """Also on a machine without a network, after another one wrote the files."""
    install_by_pip(CONSTRAINT_BY_OPTION, environment, wheel, tmp_path)
    resolve = ("-m", "pip", "install", "--no-cache-dir", "--dry-run", "--ignore-installed", wheel)
    planned = environment.checked(environment.python, *resolve, cwd=tmp_path).split("Would install ")[1]
    assert {"rmrkd", "torch", "typer"} <= {word.rpartition("-")[0] for word in planned.split()}
    rmrkd, offline = environment.bin / "rmrkd", {"PIP_INDEX_URL": NO_INDEX, "PIP_RETRIES": "0"}
    done = environment.run(rmrkd, "setup", cwd=tmp_path, **offline)
    assert done.returncode == 1
    assert "rmrkd setup --from DIR" in done.stderr
    assert "mmcv_full-1.7.2-*.whl" in done.stderr
    environment.checked(rmrkd, "setup", "--download", tmp_path / "wheels", cwd=tmp_path)
    set_up(environment, tmp_path, "--from", tmp_path / "wheels", **offline)
    environment.checked(environment.python, "-m", "pip", "uninstall", "-y", *VERSIONS, cwd=tmp_path)
    environment.checked(rmrkd, "setup", cwd=tmp_path)
    assert "baseline" in trained(environment, tmp_path)


def test_uv_builds(environment: Environment, tmp_path: Path) -> None:
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    assert uv is not None
    assert "with uv" in set_up(environment, tmp_path, UV=uv)
    assert "baseline" in trained(environment, tmp_path)


def test_an_environment_without_pip_and_uv_takes_a_temporary_pip(environment: Environment, tmp_path: Path) -> None:
    assert "of a temporary environment" in set_up(environment, tmp_path, PATH="/usr/bin:/bin")
