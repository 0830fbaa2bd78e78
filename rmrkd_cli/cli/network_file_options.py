"""The options that describe how an ONNX or TorchScript file takes images, and what its channels mean."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from rmrkd_cli.cli.command import option
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.text import shorten_value

FILES = "ONNX and TorchScript files"
_YAML = (".yaml", ".yml")
_CLASS_INDEX = re.compile("[0-9]{1,9}")
_SIZE = re.compile(r"([0-9]{1,5})[xX]([0-9]{1,5})")


class Color(str, Enum):
    rgb = "rgb"
    bgr = "bgr"


class FileOutput(str, Enum):
    logits = "logits"
    probabilities = "probabilities"


MeanOption = Annotated[
    str | None,
    option(
        "--mean", FILES, "Set the mean that is subtracted from values of 0 to 255.",
        default="the file's, else ImageNet's", metavar="N,N,N",
    ),
]  # fmt: skip
StdOption = Annotated[
    str | None,
    option(
        "--std",
        FILES,
        "Set the deviation that divides what is left.",
        default="the file's, else ImageNet's",
        metavar="N,N,N",
    ),
]
ColorOption = Annotated[
    Color | None, option("--color", FILES, "Set the order of the channels.", default="the file's, else rgb")
]
InputSizeOption = Annotated[
    str | None,
    option(
        "--input-size",
        FILES,
        "Set the height and width at which the file runs.",
        default="that of the image",
        metavar="HxW",
    ),
]
FileOutputOption = Annotated[
    FileOutput | None, option("--output", FILES, "Read the file's output as one of these.", default="logits")
]
ClassesOption = Annotated[
    str | None,
    option(
        "--classes", FILES,
        "Set the class of each channel, by index, name or `ignore`; or take them from a YAML file.",
        default="the same classes", metavar="LIST|FILE",
    ),
]  # fmt: skip


def describe_file_input(
    mean: str | None, std: str | None, color: Color | None, input_size: str | None, output: FileOutput | None,
    classes: str | None,
) -> dict[str, Any] | None:  # fmt: skip
    """Return `input`, `output` and `classes` as in a preset's teacher; None if no option is given.

    Raises:
        RmrkdError: A value has another form.
    """
    if (mean, std, color, input_size, output, classes) == (None,) * 6:
        return None
    given: dict[str, Any] = {"mean": _numbers("--mean", mean), "std": _numbers("--std", std)}
    given |= {"color": color.value if color is not None else None, "size": _size(input_size)}
    return {
        "input": {key: value for key, value in given.items() if value is not None},
        "output": (output or FileOutput.logits).value,
        "classes": _class_map(classes),
    }


def _numbers(name: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not all(abs(number) <= 1e6 for number in numbers):
        raise RmrkdError(
            f"{name} `{shorten_value(text)}` must be three numbers, or one for all channels",
            f"{name} 127.5,127.5,127.5",
        )
    return numbers * (3 // len(numbers))


def _size(text: str | None) -> list[int] | None:
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip())
    sides = [int(side) for side in match.groups()] if match else []
    if not sides or not all(1 <= side <= 16_384 for side in sides):
        raise RmrkdError(f"--input-size `{shorten_value(text)}` must be HEIGHTxWIDTH", "--input-size 481x641")
    return sides


def _class_map(text: str | None) -> Any:
    from pydantic import TypeAdapter, ValidationError

    from rmrkd_cli.presets.fields import ClassMap
    from rmrkd_cli.presets.safe_yaml import read_yaml

    if text is None:
        return None
    if text.lower().endswith(_YAML):
        entries = read_yaml(Path(text), "class map")
    else:
        parts = [part.strip() for part in text.split(",")]
        entries = [int(part) if _CLASS_INDEX.fullmatch(part) else part for part in parts]
    try:
        return TypeAdapter(ClassMap).validate_python(entries)
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise RmrkdError(f"--classes `{shorten_value(text)}` {reason}", "--classes 3,4,1,ignore") from error
