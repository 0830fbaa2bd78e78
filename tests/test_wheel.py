from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from rmrkd_cli.presets.loader import preset_names
from rmrkd_cli.presets.methods import method_names

ROOT = Path(__file__).parents[1]


def test_a_wheel_installed_elsewhere_finds_its_presets_from_any_directory(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    wheel = next((tmp_path / "dist").glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")  # what installing a pure wheel does
    code = "import rmrkd_cli, rmrkd_cli.presets.loader as p, rmrkd_cli.presets.methods as m\n"
    code += "print(rmrkd_cli.__file__, p.preset_names(), m.method_names())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert str(tmp_path / "site") in told
    assert str(preset_names()) in told
    assert str(method_names()) in told
    assert all((tmp_path / "site/rmrkd_cli/report/html" / name).is_file() for name in ("style.css", "page.js"))
    assert (tmp_path / "site/rmrkd_cli/py.typed").is_file()  # type checkers read the annotations
