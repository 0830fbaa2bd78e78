"""Options of other tools, switches with a value, presets without suffix: the message names the fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rmrkd_cli.cli.other_names import _TABLES, other_names
from rmrkd_cli.presets.loader import load_preset
from tests.cli.test_help_text import COMMANDS, option_names
from tests.helpers.cli import run_main

TRAIN = ["train", "--preset", "demo", "--dry-run"]


@pytest.mark.parametrize("command", _TABLES)
def test_what_is_named_exists(command: str) -> None:
    table = other_names(command)
    assert len(table) == sum(len(line.rpartition(": ")[2].split()) for line in _TABLES[command].splitlines())
    names = option_names((command,))
    assert not {f"--{name}" for name in table} & names
    for text in set(table.values()):
        assert set(re.findall(r"(--[a-z-]+)", text.replace("`rmrkd eval", ""))) <= names, text
        for setting in re.findall(r"--set ([^`]+)", text):
            if "…" not in setting and setting != "KEY.PATH=VALUE":
                load_preset("demo", method="cwd", overrides=[setting])
        for other in re.findall(r"`rmrkd (\w+)", text):
            assert (other,) in COMMANDS


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--epochs=3", "`--max-iters N`, which counts iterations, not epochs"),
        ("--max_epochs=3", "`--max-iters N`"),
        ("--epoch=3", "`--max-iters N`, which counts iterations, not epochs"),
        ("--max-epoch=3", "`--max-iters N`"),
        ("--num_step=3", "`--max-iters N`"),
        ("--class=3", "`--set data.classes=[…]`"),
        ("--lrs=3", "`--set schedule.lr=0.01`"),
        ("--num-train-epochs=3", "`--max-iters N`"),
        ("--iters=3", "`--max-iters N`"),
        ("--lr=0.1", "`--set schedule.lr=0.01`"),
        ("--learning_rate=0.1", "`--set schedule.lr=0.01`"),
        ("--optimizer=adamw", "`--set schedule.optimizer.type=AdamW` with `--set schedule.lr=6.0e-5`"),
        ("--batch=3", "`--batch-size N`"),
        ("--device-ids=0,1", "`--gpus N`"),
        ("--output=x", "`--work-dir DIR`"),
        ("--config=x", "`--preset NAME|FILE`"),
        ("--cfg-options=x", "`--set KEY.PATH=VALUE`"),
        ("--data=x", "`--data-root DIR`"),
        ("--num_workers=2", "`--workers N`"),
        ("--weights=x", "`--student-checkpoint FILE` or `--teacher-checkpoint FILE`"),
        ("--resume-from=x", "`--resume`"),
        ("--fp16", "`--amp fp16`"),
        ("--max_iters=3", "did you mean `--max-iters`?"),
        ("--Batch-Size=3", "did you mean `--batch-size`?"),
        ("--resum", "did you mean `--resume`?"),
        ("epochs=3", "`epochs=3` is not an option"),
        ("epochs=3", "`--max-iters N`"),
        ("seed=3", "write `--seed 3`"),
    ],
)
def test_options_of_other_tools(option: str, told: str) -> None:
    code, out, err = run_main(*TRAIN, option)
    assert (code, out) == (2, "")
    assert told in err
    assert "rmrkd train --help" in err


@pytest.mark.parametrize("option", ["--zzz", "--lru", "--qwertz=1"])
def test_nothing_is_guessed_where_nothing_is_near(option: str) -> None:
    _, _, err = run_main(*TRAIN, option)
    assert err == f"error: unknown option `{option.partition('=')[0]}`\n\nhint: rmrkd train --help\n"


@pytest.mark.parametrize(
    ("line", "switch", "fix"),
    [
        ("train --preset demo --resume true", "`--resume true`: `--resume` takes no value", "write `--resume` alone"),
        ("train --preset demo --resume=true", "`--resume true`", "write `--resume` alone"),
        ("train --dry-run yes --preset demo", "`--dry-run yes`", "write `--dry-run` alone"),
        ("train --preset demo --fresh False", "`--fresh False`", "leave `--fresh` out"),
        ("eval x.pth --flip true", "`--flip true`", "write `--flip` alone"),
        ("predict x.pth a.jpg --out o --no-legend on", "`--no-legend on`", "write `--no-legend` alone"),
        ("export x.pth o.onnx --force 1", "`--force 1`", "write `--force` alone"),
        ("--version=3", "`--version 3`", "write `--version` alone"),
    ],
)
def test_switches_take_no_value(line: str, switch: str, fix: str) -> None:
    code, out, err = run_main(*line.split())
    assert (code, out) == (2, "")
    assert switch in err
    assert err.endswith(f"hint: {fix}\n")


def test_a_file_after_a_switch_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "true").touch()
    monkeypatch.chdir(tmp_path)
    _, _, err = run_main("eval", "--flip", "true")
    assert "takes no value" not in err


@pytest.mark.parametrize(
    ("name", "told", "fix"),
    [
        ("mine", "unknown preset `mine`, but there is a file `mine.yaml`", "mine.yaml"),
        ("short", "unknown preset `short`, but there is a file `short.yml`", "short.yml"),
        ("short.yaml", "preset file `short.yaml` does not exist, but there is a file `short.yml`", "short.yml"),
        ("./mine", "but there is a file `./mine.yaml`", "./mine.yaml"),
        ("demo.yaml", "preset file `demo.yaml` does not exist, but rmrkd has a preset `demo`", "demo"),
        ("mien.yaml", "preset file `mien.yaml` does not exist, did you mean `mine.yaml`?", "rmrkd presets"),
        ("mine.yam", "did you mean `mine.yaml`?", "rmrkd presets"),
    ],
)
def test_a_preset_file_beside_is_named(
    name: str, told: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("mine.yaml", "short.yml"):
        (tmp_path / file).write_text("dataset: demo\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = run_main("train", "--preset", name)
    assert code == 2
    assert told in err
    assert fix in err.partition("hint: ")[2]


def test_a_role_says_which_options_it_does_not_use(tmp_path: Path) -> None:
    code, _, err = run_main("train", "--preset", "demo", "--role", "teacher", "--teacher-checkpoint", "t.pth")
    assert code == 2
    assert "--role teacher trains the teacher from ImageNet or random weights" in err
    assert "--role distill" in err
    for role, options, told in (
        ("teacher", ["--method", "cwd"], "--role teacher does not use --method"),
        ("baseline", ["--teacher-checkpoint", "t.pth"], "--role baseline does not use --teacher-checkpoint"),
        ("teacher", ["--set", "teacher.checkpoint={path: t.pth}"], "the preset's `teacher.checkpoint` is not used"),
        ("teacher", ["--teacher-checkpoint", "none"], ""),
    ):
        code, _, err = run_main("train", "--preset", "demo", "--role", role, *options, "--print-config")
        assert code == 0
        assert told in err
        assert bool(told) == bool(err)


def test_set_takes_precedence_over_the_option_for_the_same_key() -> None:
    """Each pair: the command line, and what `--print-config` holds."""
    cases = (
        ("--max-iters 3 --set teacher.schedule.iters=2", {"schedule.iters": 3, "teacher.schedule.iters": 2}, ""),
        ("--max-iters 3 --set teacher.schedule={iters:2}", {"schedule.iters": 3, "teacher.schedule.iters": 2}, ""),
        ("--max-iters 3", {"schedule.iters": 3, "teacher.schedule.iters": 3}, ""),
        (
            "--max-iters 3 --set schedule.iters=5",
            {"schedule.iters": 5},
            "--set schedule.iters takes precedence over --max-i",
        ),
        ("--batch-size 4 --set schedule={iters:5}", {"schedule.iters": 5, "schedule.batch_size": 4}, ""),
        ("--seed 4 --set seed=5", {"seed": 5}, "--set seed takes precedence over --seed"),
        (
            "--student-checkpoint a.pth --set student.checkpoint.allow_partial=true",
            {"student.checkpoint.path": "a.pth", "student.checkpoint.allow_partial": True},
            "",
        ),
        (
            "--student-checkpoint a.pth --set student.checkpoint={path:b.pth}",
            {"student.checkpoint.path": "b.pth"},
            "--set student.checkpoint takes precedence over --student-checkpoint",
        ),
    )
    for line, expected, told in cases:
        words = [word.replace(":", ": ") for word in line.split()]
        code, out, err = run_main("train", "--preset", "demo", *words, "--print-config")
        assert code == 0, err
        contents = yaml.safe_load(out)
        for key, value in expected.items():
            node = contents
            for name in key.split("."):
                node = node[name]
            assert node == value, (line, key)
        assert told in err
        assert bool(told) == bool(err)
    code, _, err = run_main("train", "--preset", "demo", "--seeds", "0,1", "--set", "seed=5", "--print-config")
    assert (code, "--seeds and --set seed exclude each other" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--quiet", "presets"], "option `--quiet` stands after the command, as in `rmrkd train --quiet`"),
        (["-q", "presets"], "option `-q` stands after the command, as in `rmrkd train -q`"),
        (
            ["data", "--data-root", "x", "check"],
            "option `--data-root` stands after the command, as in `rmrkd data check",
        ),
    ],
)
def test_an_option_before_its_command(arguments: list[str], told: str) -> None:
    code, out, err = run_main(*arguments)
    assert (code, out) == (2, "")
    assert told in err
