"""The kinds of values in presets: their bounds, and what no text or path of a stranger's may hold."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, PlainValidator

from rmrkd_cli.terminal.durations import parse_duration
from rmrkd_cli.terminal.sanitize import first_control


def _no_switch(value: object) -> object:
    """YAML reads `yes` and `true` as a switch, which Python would count as 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _plain_text(value: str) -> str:
    hidden = first_control(value)
    if hidden is not None:
        raise ValueError(f"must hold no control or invisible characters, there is {hidden}")
    return value


def _plain_name(value: str) -> str:
    """It names a folder; none at all is for presets that were made in code."""
    if value and not re.fullmatch(r"[\w][\w.+-]*", value):
        raise ValueError("must be letters, digits, `-`, `_`, `.` or `+`, the first a letter, digit or `_`")
    return value


def _inside(value: str) -> str:
    """A path that leads nowhere but below its root."""
    if value.startswith(("/", "~")) or "\\" in value or ".." in value.split("/") or re.match(r"[A-Za-z]:", value):
        raise ValueError("must be a relative path with `/` and without `..`")
    return value


def _own_home(value: str) -> str:
    """`~` alone is understood, since other users' folders may not be known."""
    if value.startswith("~") and not re.match(r"~(/|$)", value):
        raise ValueError("`~` must be followed by `/`")
    return value


def _one_of(value: object, allowed: tuple[int | str, ...]) -> Any:
    if not isinstance(value, (int, str)) or isinstance(value, bool) or value not in allowed:
        raise ValueError(f"must be one of {', '.join(map(str, allowed))}")
    return value


def _maps(values: list[Any]) -> list[Any]:
    if repeated := [value for number, value in enumerate(values) if value in values[:number]]:
        raise ValueError(f"must name each map once, not `{repeated[0]}` twice")
    return values


def _map_or_maps(value: object) -> Any:
    if not isinstance(value, list):
        return _one_of(value, MAPS)
    if not 2 <= len(value) <= len(MAPS):
        raise ValueError(f"must be one map, or a list of 2 to {len(MAPS)}")
    return _maps([_one_of(part, MAPS) for part in value])


def _loss_weight(value: object) -> Any:
    if value == AUTO:
        return value
    if not is_number(value) or not 0.0 <= value <= 1e36:  # type: ignore[operator]
        raise ValueError(f"must be a number from 0 to 1e36, or `{AUTO}`")
    return float(value)  # type: ignore[arg-type]


def _code_name(value: str) -> str:
    if not re.fullmatch(r"[^:]+\.py:[^\W\d]\w*", value):
        raise ValueError("must be `path/to/file.py:Class`")
    return value


def _no_separator(value: str) -> str:
    if re.search(r"[/\\*?\[\]]", value):
        raise ValueError("must hold none of `/ \\ * ? [ ]`")
    return value


def _address(value: str) -> str:
    """An https address that ends in a file's name."""
    if not value.startswith("https://"):
        raise ValueError("`url` must begin with https://")
    if not re.fullmatch(
        r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/([A-Za-z0-9_.+~-]+/)*[A-Za-z0-9_][A-Za-z0-9_.+-]*", value
    ):
        raise ValueError("`url` must be https://HOST/…/FILE without blanks, user names or `?`")
    return value


def _seconds(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


_OFF = BeforeValidator(lambda value: "off" if value is False else value)  # YAML reads `off` as a switch
Amp = Annotated[Literal["off", "bf16", "fp16"], _OFF]
Cache = Annotated[Literal["off", "ram", "disk"], _OFF]
NUMBER = BeforeValidator(_no_switch)
# Every bound lies far beyond what works, and short of what overflows float32 or never ends.
Weight = Annotated[float, Field(ge=0.0, le=1e36), NUMBER]
Positive = Annotated[float, Field(ge=1e-9, le=1e36), NUMBER]
Share = Annotated[float, Field(ge=0.0, le=1.0), NUMBER]
Percent = Annotated[float, Field(ge=0.0, le=100.0), NUMBER]
Steps = Annotated[int, Field(ge=1, le=100_000_000), NUMBER]
PositiveCount = Annotated[int, Field(ge=1, le=65_536), NUMBER]
Duration = Annotated[float, Field(ge=1.0, le=31_536_000.0), BeforeValidator(_seconds), NUMBER]  # seconds, to a year
Side = Annotated[int, Field(ge=1, le=16_384), NUMBER]  # pixels
Ratio = Annotated[float, Field(ge=0.01, le=100.0), NUMBER]
Text = Annotated[str, Field(max_length=1000), AfterValidator(_plain_text)]
Name = Annotated[str, Field(max_length=100), AfterValidator(_plain_name)]
RelativePath = Annotated[
    str, Field(min_length=1, max_length=1000), AfterValidator(_plain_text), AfterValidator(_inside)
]
PathText = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_plain_text)]
Root = Annotated[PathText, AfterValidator(_own_home)]
Suffix = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_plain_text), AfterValidator(_no_separator)]
AUTO: Literal["auto"] = "auto"  # a weight that is computed at the start of a run, see `training.loss_weights`
LossWeight = Annotated[float | Literal["auto"], PlainValidator(_loss_weight)]
STAGES = (1, 2, 3, 4)  # of a backbone
LOGITS = ("logits", "aux")  # of the decode head, and of the auxiliary head
MAPS = (*STAGES, "head", *LOGITS)  # `head`: what the decode head's classifier takes
FeatureMap = Annotated[int | str, PlainValidator(lambda value: _one_of(value, MAPS))]
LogitsMap = Annotated[str, PlainValidator(lambda value: _one_of(value, LOGITS))]
FeatureMaps = Annotated[list[FeatureMap], Field(min_length=2, max_length=len(MAPS)), AfterValidator(_maps)]
FeatureMapOrMaps = Annotated[int | str | list[int | str], PlainValidator(_map_or_maps)]
OneOrTwo = Annotated[int, PlainValidator(lambda value: _one_of(value, (1, 2)))]
CodeName = Annotated[str, Field(max_length=1000), AfterValidator(_plain_text), AfterValidator(_code_name)]
LabelResize = Literal["bilinear", "nearest"]
Address = Annotated[str, Field(max_length=1000), AfterValidator(_address)]
Colour = Annotated[int, Field(ge=0, le=255), NUMBER]
ClassName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_plain_text)]
MAX_PIXELS = 1 << 30  # of a batch of crops, or of a scaled image


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def numbers(value: object, count: int) -> list[Any]:
    """The value, where it is so many numbers; what else it may be is told elsewhere."""
    fits = isinstance(value, (list, tuple)) and len(value) == count and all(map(is_number, value))
    return list(value) if fits else []  # type: ignore[call-overload]


def _check_overrides(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    left: list[tuple[str, Any]] = list(value.items())
    for count, (where, inner) in enumerate(left):  # grows while it is walked
        _check_override(where, inner)
        if count >= 1000 or where.count("/") > 8:
            raise ValueError("must hold at most 1000 values, nested at most 8 deep")
        below = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        left += [(f"{where}/{key}", part) for key, part in below]
    return value


def _check_override(where: str, value: object) -> None:
    key = re.split(r"[./]", where)[-1]
    if not re.fullmatch(r"[\w./-]{1,1000}", where):
        raise ValueError(f"the key `{where[:100]}` must be letters, digits, `_` and `-` between dots")
    if isinstance(value, str):
        hidden = first_control(value)
        if len(value) > 1000 or hidden is not None:
            raise ValueError(f"`{where}` must be a text of at most 1000 characters, none of them a control character")
    elif isinstance(value, (int, float)) and abs(value) > 65_536:
        raise ValueError(f"`{where}` must be a number from -65536 to 65536, got {str(value)[:30]}")
    if (key in _WEIGHTS and value is not None) or (isinstance(value, str) and value.split(".")[-1] == "Pretrained"):
        raise ValueError(f"`{where}` may not name a file to load: weights come from `checkpoint` beside `overrides`")
    if key == "class_weight" and isinstance(value, str):
        raise ValueError(f"`{where}` must be a list of numbers, a file is not loaded")


_WEIGHTS = ("pretrained", "checkpoint", "checkpoint_path")  # mmcv would open what they name
Overrides = Annotated[dict[str, JsonValue], AfterValidator(_check_overrides)]  # dotted path below `model` -> value
