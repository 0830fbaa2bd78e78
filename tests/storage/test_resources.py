"""Free memory within the limits of a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmrkd_cli.storage import resources


def test_available_memory_respects_the_limit_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = resources.available_memory()
    assert 10**8 < machine < 10**14
    for name, text in {"max": "2000000\n", "current": "1500000\n", "stat": "anon 7\ninactive_file 400000\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "own").write_text("12:cpu,memory:/elsewhere\n0::/job/step\n")
    monkeypatch.setattr(resources, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(resources, "_CGROUPS", (("", tmp_path, "memory.max", "memory.current", "inactive_file"),))
    assert resources.available_memory() == 900_000
    (tmp_path / "memory.max").write_text("max\n")
    assert resources.available_memory() > 10**8
