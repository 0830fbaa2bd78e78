"""The functions of the Python API take the options of the commands, by the same names."""

from __future__ import annotations

import inspect

import pytest

import rmrkd_cli
from rmrkd_cli.errors import RmrkdError
from tests.helpers.cli import COMMAND

# Of printing, of writing JSON, and of choosing what to do instead of the work.
_ONLY_COMMANDS = {
    "help", "quiet", "verbose", "log_file", "json_out", "confusion", "work_root", "dry_run", "print_config",
}  # fmt: skip
_OTHER_NAMES = {
    "eval": {"checkpoints": "checkpoint"},
    "compare": {"files": "checkpoints", "report_dir": "report"},
    "predict": {"inputs": "images"},
    "export": {"file_format": "format", "input_kind": "input", "output_kind": "output"},
}


@pytest.mark.parametrize(
    ("command", "name", "left_out"),
    [
        ("train", "train", set()),
        ("eval", "evaluate", {"force"}),  # of `--json`
        ("compare", "compare", {"force"}),  # of `--json` and `--report`; a function writes into a new folder
        ("predict", "predict", set()),
        ("export", "export", set()),
    ],
)
def test_options_and_arguments_have_the_same_names(command: str, name: str, left_out: set[str]) -> None:
    others = _OTHER_NAMES.get(command, {})
    options = {param.name for param in COMMAND.commands[command].params}  # type: ignore[attr-defined]
    expected = {others.get(option, option) for option in options - _ONLY_COMMANDS - left_out}
    arguments = set(inspect.signature(getattr(rmrkd_cli, name)).parameters)
    assert arguments - {"progress"} == expected


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("train", {"preset": "demo", "role": "pupil"}, "role"),
        ("train", {"preset": "demo", "settings": {"schedule.lrr": 1}}, "schedule.lrr"),
        ("train", {"preset": "demo", "seeds": []}, "names 0 seeds"),
        ("train", {"preset": "demo", "seeds": [-1]}, "-1 is negative"),
        ("train", {"preset": "demo", "seeds": [0, 0]}, "names 0 more than once"),
        ("evaluate", {"checkpoint": "no.pth"}, "`no.pth` does not exist"),
        ("evaluate", {"checkpoint": "no.pth", "split": "vall"}, "`split` must be val, test or train, got `vall`"),
        ("evaluate", {"checkpoint": "no.pth", "scales": (0.5, 99)}, "`scales` must be 1 to 32 numbers from 0.05 to 8"),
        ("evaluate", {"checkpoint": "no.pth", "crop": (64, 64)}, "needs a sliding window"),
        ("evaluate", {"checkpoint": "no.pth", "device": "gpu"}, "`device` must be auto, cpu or cuda, got `gpu`"),
        ("compare", {"checkpoints": []}, "two or more files, got 0"),
        ("predict", {"checkpoint": "no.pth", "images": "no.png"}, "`no.png` does not exist"),
        ("predict", {"checkpoint": "no.pth", "images": [], "overlay": "gif"}, "`overlay` must be png, jpg or none"),
        ("export", {"checkpoint": "no.pth", "target": "out.tflite"}, "`out.tflite` must end in .onnx"),
        ("export", {"checkpoint": "no.pth", "target": "o.onnx", "output": "labels"}, "`output` must be logits or"),
    ],
)
def test_wrong_arguments_are_explained(
    function: str, arguments: dict[str, object], message: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    with pytest.raises(RmrkdError) as error:
        getattr(rmrkd_cli, function)(**arguments)
    assert message in error.value.message
