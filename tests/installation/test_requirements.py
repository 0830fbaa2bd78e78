"""What is missing, and the messages that say so: without an environment of its own where none is needed."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from rmrkd_cli.installation import mmseg
from rmrkd_cli.installation.installers import Installer, find_installer
from rmrkd_cli.installation.requirements import declared_requirements, install_extra_command
from tests.cli.test_escaping import record
from tests.helpers.cli import Outcome, rmrkd, run_main
from tests.installation.environments import Environment, build_wheel
from tests.report.html import synthetic

NEEDED = "this command needs mmcv-full, mmsegmentation and mmcls, which are not installed"
Patch = pytest.MonkeyPatch


@pytest.fixture
def without_mmseg(monkeypatch: Patch) -> None:
    """As in an environment into which only the wheel was installed."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in mmseg.VERSIONS:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    mmseg.require_mmseg.cache_clear()
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(mmseg, "find_spec", lambda name: None)


def refused(*words: object) -> Outcome:
    outcome = rmrkd(*words)
    assert (outcome.exit_code, outcome.message, outcome.hint) == (2, NEEDED, "rmrkd setup"), words
    return outcome


@pytest.mark.usefixtures("without_mmseg")
def test_a_command_that_needs_mmsegmentation_names_the_command_that_installs_it(tmp_path: Path, tiny: Path) -> None:
    student = tmp_path / "student.pth"
    student.touch()
    refused("train", "--preset", "demo")
    refused("train", "--preset", "demo", "--dry-run")
    refused("eval", student, "--dataset", "demo")
    refused("compare", student, student)
    refused("predict", student, tmp_path, "--out", tmp_path / "out")
    refused("export", student, tmp_path / "out.onnx")
    refused("data", "check", "cityscapes", "--data-root", tmp_path)
    assert run_main("eval", str(student)) == (2, "", f"error: {NEEDED}\n\nhint: rmrkd setup\n")


@pytest.mark.usefixtures("without_mmseg")
def test_the_other_commands_work_without_it(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    synthetic.log(tmp_path / "run")
    for words in (["presets"], ["presets", "psp101-psp18-city"], ["methods"], ["methods", "mgd"], ["plot", "run"]):
        assert rmrkd(*words).exit_code == 0, words
    assert rmrkd("train", "--preset", "demo", "--print-config").exit_code == 0
    for name, seed in (("a", 0), ("b", 1)):
        Path(f"{name}.json").write_text(json.dumps({**record(5), "role": name, "seed": seed}))
    assert rmrkd("compare", "a.json", "b.json", "--report", "report").exit_code == 0
    assert Path("report/index.html").is_file()


@pytest.mark.usefixtures("without_mmseg")
def test_doctor_reports_it_with_the_same_command() -> None:
    outcome = rmrkd("doctor", "--no-step")
    assert outcome.exit_code == 1
    for name in mmseg.VERSIONS:
        assert re.search(rf"error +{name} +not installed.*\n +fix: rmrkd setup\n", outcome.stdout), outcome.stdout
    assert "compiled ops" not in outcome.stdout


@pytest.mark.parametrize("name", mmseg.VERSIONS)
def test_an_unsupported_version_is_named(name: str, monkeypatch: Patch) -> None:
    real = importlib.metadata.version
    mmseg.require_mmseg.cache_clear()
    monkeypatch.setattr(importlib.metadata, "version", lambda asked: "1.99.9" if asked == name else real(asked))
    outcome = rmrkd("train", "--preset", "demo")
    assert outcome.exit_code == 2
    assert outcome.message.startswith(f"{name} 1.99.9 is installed, and rmrkd needs ")
    assert outcome.hint == "rmrkd setup"


def test_every_requirement_of_the_extra_is_rmrkds_own_or_installed_by_setup() -> None:
    """`rmrkd setup` installs without dependencies, so its list must be complete."""
    own = {requirement.name.lower() for requirement in declared_requirements()}
    for name in {**mmseg.VERSIONS, **mmseg.SUPPORT_VERSIONS}:
        for requirement in map(Requirement, importlib.metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                known = {*own, *mmseg.VERSIONS, *mmseg.SUPPORT_VERSIONS}
                assert requirement.name.lower() in known, f"{name} needs {requirement}"


def test_the_pinned_versions_are_within_the_extras_ranges() -> None:
    ranges = {requirement.name: requirement.specifier for requirement in declared_requirements(mmseg.EXTRA)}
    assert ranges.keys() == mmseg.VERSIONS.keys()
    assert all(ranges[name].contains(version) for name, version in mmseg.VERSIONS.items())


def test_an_extra_is_installed_by_its_packages_names() -> None:
    assert install_extra_command("export").endswith("'onnx>=1.17' 'onnxruntime>=1.20' 'onnxscript>=0.5'")


def test_setup_explains_a_python_that_mmcv_cannot_be_built_on(monkeypatch: Patch) -> None:
    monkeypatch.setattr(mmseg.sys, "version_info", (3, 13, 1, "final", 0))  # type: ignore[attr-defined]
    monkeypatch.setattr(mmseg.platform, "python_version", lambda: "3.13.1")  # type: ignore[attr-defined]
    outcome = rmrkd("setup")
    assert outcome.exit_code == 2
    assert outcome.message == "mmcv-full 1.7.2 cannot be built on Python 3.13.1, only on 3.10, 3.11 and 3.12"
    assert "--python 3.12" in outcome.hint


def test_setup_rejects_a_conflicting_mmcv(monkeypatch: Patch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.1.0" if name == "mmcv" else real(name))
    outcome = rmrkd("setup")
    assert outcome.exit_code == 2
    assert outcome.message.startswith("mmcv 2.1.0 is installed, and writes into the same folder `mmcv`")
    assert re.search(r"uninstall .*mmcv mmcv-full && rmrkd setup$", outcome.hint)
    mmseg.require_mmseg.cache_clear()
    assert rmrkd("train", "--preset", "demo").message == outcome.message


def test_a_package_that_mmcv_needs_is_named(monkeypatch: Patch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "addict":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    mmseg.require_mmseg.cache_clear()
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(mmseg, "find_spec", lambda name: None)
    outcome = rmrkd("train", "--preset", "demo")
    assert (outcome.message, outcome.hint) == ("this command needs addict, which is not installed", "rmrkd setup")


@pytest.mark.usefixtures("without_mmseg")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"os.access": lambda path, mode: False}, "is not writable"),
        ({"sys.prefix": sys.base_prefix}, "is managed by the system"),
    ],
    ids=["read-only", "externally managed"],
)
def test_setup_explains_an_environment_that_is_not_writable(
    changed: dict[str, object], said: str, monkeypatch: Patch, tmp_path: Path
) -> None:
    if "sys.prefix" in changed:
        (tmp_path / "EXTERNALLY-MANAGED").touch()
        monkeypatch.setattr("rmrkd_cli.installation.setup.sysconfig.get_path", {"stdlib": str(tmp_path)}.__getitem__)
    for name, value in changed.items():
        monkeypatch.setattr(name, value)
    outcome = rmrkd("setup")
    assert outcome.exit_code == 2
    assert said in outcome.message
    assert "python3 -m venv ENV" in outcome.hint


@pytest.mark.usefixtures("without_mmseg")
def test_setup_says_what_it_would_install() -> None:
    code, out, told = run_main("setup", "--dry-run")
    assert (code, out) == (0, "")
    for name, version in mmseg.VERSIONS.items():
        assert f"  {name} {version}" in told
    assert "would install into" in told
    assert "torch" not in told


def test_setup_can_be_repeated() -> None:
    code, out, told = run_main("setup")
    assert (code, out.startswith("mmsegmentation works: ")) == (0, True)
    assert told == "already installed: mmcv-full 1.7.2, mmsegmentation 0.30.0, mmcls 0.25.0\n"


def test_setup_reads_or_writes_a_folder_of_wheels(tmp_path: Path) -> None:
    assert rmrkd("setup", "--from", tmp_path / "none").message.endswith("is not a folder")
    assert rmrkd("setup", "--from", tmp_path, "--download", tmp_path / "new").exit_code == 2
    (tmp_path / "file").touch()
    assert "not empty" in rmrkd("setup", "--download", tmp_path).message


@pytest.mark.parametrize(
    ("version", "option", "variable"),
    [("23.2.1", "--use-pep517", True), ("25.2", "--use-pep517", True), ("25.3", "--build-constraint", False)],
)
def test_the_build_constraint_reaches_builds_of_every_pip(version: str, option: str, variable: bool) -> None:
    """Since 25.3 a build sees the option alone, before only the variable."""
    major, minor = map(int, version.split(".")[:2])
    environment = {"PIP_CONSTRAINT": "mine.txt"}
    options = Installer("pip", ("pip",), "pip", (major, minor))._options(Path("/a b/limit.txt"), environment)
    assert options == ([option] if variable else [option, "/a b/limit.txt"])
    assert environment["PIP_CONSTRAINT"] == ("mine.txt file:///a%20b/limit.txt" if variable else "mine.txt")


def test_uv_takes_the_build_constraint_by_the_name_that_all_its_versions_know() -> None:
    options = Installer("uv", ("uv", "pip"), "uv")._options(Path("limit.txt"), {})
    assert options == ["--build-constraint", "limit.txt"]


def test_a_network_that_cannot_be_built_after_setup_is_explained(monkeypatch: Patch) -> None:
    """mmsegmentation checks the version of mmcv with `assert`."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("MMCV==9 is used but incompatible\nand more")

    monkeypatch.setattr("rmrkd_cli.networks.mmseg.build_network", fail)
    outcome = rmrkd("setup")
    assert outcome.exit_code == 1
    assert (
        outcome.message == "mmsegmentation is installed, but cannot build a network: MMCV==9 is used but incompatible"
    )
    assert outcome.hint.startswith("rmrkd setup --reinstall")


@pytest.mark.parametrize(
    ("printed", "hint"),
    [
        (
            "ERROR: No matching distribution found for mmcls==0.25.0",
            "setup --download DIR.*mmcv_full-1.7.2-.*whl.*setup --from DIR",
        ),
        ("error: client error (Connect): dns error", "setup --download DIR.*mmcls-0.25.0-.*whl.*setup --from DIR"),
        ("OSError: No space left on device", "^rmrkd doctor$"),
    ],
)
@pytest.mark.usefixtures("without_mmseg")
def test_an_installer_that_fails_is_quoted_with_the_next_step(printed: str, hint: str, monkeypatch: Patch) -> None:
    command = (sys.executable, "-c", f"print({printed!r}); raise SystemExit(1)")
    monkeypatch.setattr(
        "rmrkd_cli.installation.setup.find_installer",
        lambda: nullcontext(Installer("pip 26.3", command, "pip", (26, 3))),
    )
    outcome = rmrkd("setup")
    assert (outcome.exit_code, outcome.message) == (1, f"pip 26.3 failed:\n  {printed}")
    assert re.search(hint, outcome.hint)


@pytest.mark.slow
def test_without_pip_and_uv_a_pip_of_a_temporary_environment_is_found(monkeypatch: Patch) -> None:
    monkeypatch.setattr("rmrkd_cli.installation.installers.version_of", lambda name: None)
    monkeypatch.setattr("rmrkd_cli.installation.installers._uv_command", lambda: None)
    with find_installer() as installer:
        assert installer.command[-2:] == ("--python", sys.executable)
        assert Path(installer.command[0]).is_file()
        assert installer.pip_version >= (22, 3)
    assert not Path(installer.command[0]).exists()


def test_an_installation_without_its_requirements_is_explained(tmp_path: Path) -> None:
    """As `pip install --no-deps` leaves it."""
    environment = Environment(tmp_path / "env", pip=False)
    environment.unpack(build_wheel(tmp_path))
    for words in ([], ["--version"], ["train", "--preset", "demo"]):
        done = environment.run(environment.python, "-m", "rmrkd_cli", *words, cwd=tmp_path)
        error, _, hint = done.stderr.partition("\n\n")
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(r"error: \d+ packages that rmrkd needs are not installed: .*typer.*", error)
        assert re.fullmatch(r"hint: uv pip install .*'typer>=0\.15'.*\n", hint)
        assert "mmcv" not in done.stderr
