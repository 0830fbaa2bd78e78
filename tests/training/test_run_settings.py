"""Runs of older versions, whose `config.yaml` lacks newer keys or whose `cwd` meant another layer, are resumed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import cwd
from rmrkd_cli.presets.loader import load_preset, to_yaml
from rmrkd_cli.presets.schema import Data, Preset, Schedule
from rmrkd_cli.training.resume import _describe_tf32, _lacks_tf32
from rmrkd_cli.training.run import train
from rmrkd_cli.training.run_directory import RunDir

# Keys with a default that is written into `config.yaml`, in this order: (section, key, default).
DEFAULTS = [
    (section, key, field.default)
    for section, model in (("", Preset), ("data", Data), ("schedule", Schedule))
    for key, field in model.model_fields.items()
    if isinstance(field.default, (bool, int, float, str)) and key not in ("name", "role", "method")
    and key not in ("image_suffix", "label_suffix")
]  # fmt: skip


def begun(folder: Path, preset: Preset, *lacking: str, **changed: Any) -> RunDir:
    """Return an unfinished run whose `config.yaml` lacks keys, and has others with another value (`a__b` for `a.b`)."""
    run_dir = RunDir(folder)
    run_dir.create(preset, fresh=False)
    (folder / "log.jsonl").touch()
    contents = yaml.safe_load(run_dir.config.read_text())
    for dotted, value in {
        **dict.fromkeys(lacking),
        **{key.replace("__", "."): v for key, v in changed.items()},
    }.items():
        *sections, key = dotted.split(".")
        node = contents
        for section in sections:
            node = node[section]
        node.pop(key, None)
        if value is not None:
            node[key] = value
    run_dir.config.write_text(yaml.safe_dump(contents))
    return run_dir


@pytest.mark.parametrize(("section", "key", "default"), DEFAULTS, ids=lambda value: str(value))
def test_a_missing_key_counts_as_its_default(section: str, key: str, default: object, tmp_path: Path) -> None:
    dotted = f"{section}.{key}".lstrip(".")
    preset = load_preset("demo", overrides=["role=distill", f"{dotted}={json.dumps(default)}"])
    assert dotted.rpartition(".")[2] + ":" in to_yaml(preset)
    begun(tmp_path, preset, dotted).check_usable(preset, resume=True, fresh=False)


def test_a_missing_key_whose_default_differs_is_named(tmp_path: Path) -> None:
    preset = load_preset("demo", overrides=["schedule.momentum=0.5"])
    text = "schedule.momentum: 0.9 in the run, which does not name it and has the default, 0.5 now"
    with pytest.raises(RmrkdError, match=re.escape(text)) as caught:
        begun(tmp_path, preset, "schedule.momentum").check_usable(preset, resume=True, fresh=False)
    assert "tf32" not in caught.value.message


@pytest.mark.parametrize("role", ["teacher", "baseline", "distill"])
def test_a_run_of_an_older_version_is_resumed(role: str, tmp_path: Path) -> None:
    preset = load_preset("demo", overrides=[f"role={role}"])
    older = begun(tmp_path, preset, "schedule.tf32", "data.max_value", "schedule.skip_corrupt", schedule__workers=2)
    assert "tf32" not in older.config.read_text()
    for value in ("true", "false"):
        now = load_preset("demo", overrides=[f"role={role}", f"schedule.tf32={value}"])
        older.check_usable(now, resume=True, fresh=False)


def test_images_beyond_8_bits_were_read_otherwise_without_the_key(tmp_path: Path) -> None:
    preset = load_preset("demo", overrides=["data.max_value=4095"])
    with pytest.raises(RmrkdError, match=r"data\.max_value: None in the run, 4095\.0 now"):
        begun(tmp_path, preset, "data.max_value").check_usable(preset, resume=True, fresh=False)


def test_a_changed_precision_is_still_refused(tmp_path: Path) -> None:
    now = load_preset("demo", overrides=["schedule.tf32=false"])
    with pytest.raises(RmrkdError, match=r"schedule\.tf32: True in the run, False now"):
        begun(tmp_path, load_preset("demo")).check_usable(now, resume=True, fresh=False)


def test_the_log_says_how_the_precision_of_an_older_run_changes() -> None:
    assert _lacks_tf32({"schedule": {"lr": 0.1}})
    assert not _lacks_tf32({"schedule": {"tf32": True}})
    assert not _lacks_tf32("text")
    assert "from iteration 300 on it uses TF32 in convolutions and matrix products" in _describe_tf32(True, 300)
    assert "from iteration 300 on it uses TF32 nowhere" in _describe_tf32(False, 300)


def test_a_run_whose_cwd_had_a_convolution_for_equal_channels_continues_with_conv_always(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of the version in which `conv` always added one."""
    overrides = [
        "losses={cwd: {type: cwd, stage: head, weight: 1.0}}", "schedule.iters=2", "schedule.checkpoint_interval=1",
        "student.overrides.decode_head.channels=16", "teacher.schedule={iters: 1}",
    ]  # fmt: skip
    make = cwd._make_align
    with monkeypatch.context() as older:
        older.setattr(cwd, "_make_align", lambda kind, s, t: make("conv-always", s, t))
        train(load_preset(str(tiny), overrides=overrides), tmp_path, "cpu", Cluster())
    for name in ("student.pth", "result.json", "iter_2.pth", "last.pth", "best.pth"):
        (tmp_path / "distill" / name).unlink()
    preset = load_preset(str(tiny), overrides=overrides)
    with pytest.raises(RmrkdError, match=r"its loss `cwd` has a 1x1 convolution.*`align: conv-always` now") as caught:
        train(preset, tmp_path, "cpu", Cluster(), resume=True)
    assert caught.value.hint == "--set losses.cwd.align=conv-always continues the run"
    preset = load_preset(str(tiny), overrides=[*overrides, "losses.cwd.align=conv-always"])
    assert train(preset, tmp_path, "cpu", Cluster(), resume=True)[-1]["training"]["iterations"] == 2


def test_conv_always_is_another_setting_for_a_run_without_that_convolution(tmp_path: Path) -> None:
    overrides = ["losses={cwd: {type: cwd, stage: head, weight: 1.0}}"]
    now = load_preset("demo", overrides=[*overrides, "losses.cwd.align=conv-always"])
    with pytest.raises(RmrkdError, match=r"losses\.cwd\.align: conv in the run, conv-always now"):
        begun(tmp_path, load_preset("demo", overrides=overrides)).check_usable(now, resume=True, fresh=False)
