"""The types of values in presets and of loss options: their bounds, and rules for text and paths from strangers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, PlainValidator

from rmrkd_cli.terminal.durations import parse_duration
from rmrkd_cli.terminal.sanitize import first_control

AUTO: Literal["auto"] = "auto"  # measured at the start of a run: a loss weight, or the number of loader processes
STAGES = (1, 2, 3, 4)  # of the backbone
LOGITS = ("logits", "aux")  # of the decode head, and of the auxiliary head
MAPS = (*STAGES, "head", *LOGITS)  # `head`: the input of the decode head's classifier
MAP_KEYS = (*(f"stage{number}" for number in STAGES), "head")  # how presets name the maps of other libraries
IGNORE_CHANNEL = "ignore"  # in a class map: a channel of a teacher's file that is not used
_MAX_CHANNELS = 4096  # of a teacher's file
MAX_PIXELS = 1 << 30  # of a batch of crops, or of a scaled image
_WEIGHT_KEYS = ("pretrained", "checkpoint", "checkpoint_path")  # mmcv would open the files they name


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def numbers(value: object, count: int) -> list[Any]:
    """Return the value if it is a list of `count` numbers, or else []; its own type check reports anything else."""
    matches = isinstance(value, (list, tuple)) and len(value) == count and all(map(is_number, value))
    return list(value) if matches else []  # type: ignore[call-overload]


def class_name_problems(names: object) -> Iterator[str]:
    """Yield what is wrong with a list of class names as a whole; its own type check reports anything else."""
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return
    if len(names) == 1:
        yield (
            f"`classes` has only `{names[0][:100]}`, at least two are needed: name the background too, such as "
            f"`classes: [background, {names[0][:100]}]`"
        )
    places: dict[str, int] = {}
    for number, name in enumerate(names):
        first = places.setdefault(" ".join(name.split()).casefold(), number)
        if first != number:
            yield (
                f"`classes` has `{name[:100]}` twice, at {first} and {number} (upper and lower case count as equal): "
                "give each class a name of its own"
            )


def ignored_class_problems(names: object, ignored: object) -> Iterator[str]:
    """Yield an error if `ignore_labels` leaves fewer than two classes; their own type checks report anything else."""
    if not isinstance(names, (list, tuple)) or not isinstance(ignored, (list, tuple)) or len(names) < 2:
        return
    counted = [str(name)[:100] for index, name in enumerate(names) if index not in ignored]
    lost = [index for index in range(len(names)) if index in ignored]
    if len(counted) < 2:
        left = f"only `{counted[0]}`" if counted else "no class"
        shown = ", ".join(map(str, lost[:20])) + (", …" if len(lost) > 20 else "")
        yield (
            f"`ignore_labels` contains the class {'indices' if len(lost) > 1 else 'index'} {shown} and leaves {left}, "
            f"at least two classes are needed: remove {'them' if len(lost) > 1 else 'it'} from `ignore_labels`, or add "
            "the missing classes to `classes`"
        )


def _check_not_bool(value: object) -> object:
    """YAML reads `yes` and `true` as booleans, which Python would accept as 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _check_text(value: str) -> str:
    control = first_control(value)
    if control is not None:
        raise ValueError(f"must not contain control or invisible characters, contains {control}")
    return value


def _check_name(value: str) -> str:
    """The name becomes a folder; "" is for presets built in code."""
    if value and not re.fullmatch(r"[\w][\w.+-]*", value):
        raise ValueError("must be letters, digits, `-`, `_`, `.` or `+`, the first a letter, digit or `_`")
    return value


def _check_relative(value: str) -> str:
    """The path must stay below its root."""
    if value.startswith(("/", "~")) or "\\" in value or ".." in value.split("/") or re.match(r"[A-Za-z]:", value):
        raise ValueError("must be a relative path with `/` and without `..`")
    return value


def _check_sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{8,64}", value):
        raise ValueError("must be the first 8 to 64 hexadecimal digits of the file's SHA-256, in lower case")
    return value


def _check_home(value: str) -> str:
    """Only `~` itself is expanded, because other users' folders may not be known."""
    if value.startswith("~") and not re.match(r"~(/|$)", value):
        raise ValueError("`~` must be followed by `/`")
    return value


def _check_suffix(value: str) -> str:
    if re.search(r"[/\\*?\[\]]", value):
        raise ValueError("must not contain any of `/ \\ * ? [ ]`")
    return value


def _check_url(value: str) -> str:
    """The address must end in a file name."""
    if not value.startswith("https://"):
        raise ValueError("`url` must begin with https://")
    host, path = r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?", r"/([A-Za-z0-9_.+~-]+/)*[A-Za-z0-9_][A-Za-z0-9_.+-]*"
    if not re.fullmatch(host + path, value):
        raise ValueError("`url` must be https://HOST/…/FILE without blanks, user names or `?`")
    return value


def _check_hub_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[0-9a-f]{7,40})?", value, re.ASCII):
        raise ValueError("`hub` must be OWNER/MODEL, or OWNER/MODEL@COMMIT")
    return value


def _check_custom_type(value: str) -> str:
    if not re.fullmatch(r"[^:]+\.py:[^\W\d]\w*", value):
        raise ValueError("must be `path/to/file.py:Class`")
    return value


def _one_of(value: object, allowed: tuple[int | str, ...]) -> Any:
    if not isinstance(value, (int, str)) or isinstance(value, bool) or value not in allowed:
        raise ValueError(f"must be one of {', '.join(map(str, allowed))}")
    return value


def _check_unique(maps: list[Any]) -> list[Any]:
    if repeated := [each for number, each in enumerate(maps) if each in maps[:number]]:
        raise ValueError(f"must name each map once, not `{repeated[0]}` twice")
    return maps


def _check_map_or_maps(value: object) -> Any:
    if not isinstance(value, list):
        return _one_of(value, MAPS)
    if not 2 <= len(value) <= len(MAPS):
        raise ValueError(f"must be one map, or a list of 2 to {len(MAPS)}")
    return _check_unique([_one_of(part, MAPS) for part in value])


def _check_loss_weight(value: object) -> Any:
    if value == AUTO:
        return value
    if not is_number(value) or not 0.0 <= value <= 1e36:  # type: ignore[operator]
        raise ValueError(f"must be a number from 0 to 1e36, or `{AUTO}`")
    return float(value)  # type: ignore[arg-type]


def _check_loader_processes(value: object) -> Any:
    if value == AUTO:
        return value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 256:
        raise ValueError(f"must be an integer from 0 to 256, or `{AUTO}`")
    return value


def _check_overrides(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    queue: list[tuple[str, Any]] = list(value.items())
    for count, (path, part) in enumerate(queue):  # grows while it is walked
        _check_override(path, part)
        if count >= 1000 or path.count("/") > 8:
            raise ValueError("must hold at most 1000 values, nested at most 8 deep")
        inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        queue += [(f"{path}/{key}", each) for key, each in inner]
    return value


def _check_override(path: str, value: object) -> None:
    key = re.split(r"[./]", path)[-1]
    if not re.fullmatch(r"[\w./-]{1,1000}", path):
        raise ValueError(f"the key `{path[:100]}` must be letters, digits, `_` and `-` between dots")
    if isinstance(value, str):
        if len(value) > 1000 or first_control(value) is not None:
            raise ValueError(f"`{path}` must be a text of at most 1000 characters, none of them a control character")
    elif isinstance(value, (int, float)) and abs(value) > 65_536:
        raise ValueError(f"`{path}` must be a number from -65536 to 65536, got {str(value)[:30]}")
    if (key in _WEIGHT_KEYS and value is not None) or (isinstance(value, str) and value.split(".")[-1] == "Pretrained"):
        raise ValueError(f"`{path}` may not name a file to load: weights come from `checkpoint` beside `overrides`")
    if key == "class_weight" and isinstance(value, str):
        raise ValueError(f"`{path}` must be a list of numbers, a file is not loaded")


def _check_map_modules(value: dict[str, str]) -> dict[str, str]:
    for name, module in value.items():
        if name not in MAP_KEYS:
            raise ValueError(f"has the map `{name[:50]}`, which must be one of {', '.join(MAP_KEYS)}")
        if not re.fullmatch(r"[\w.]{1,300}(:input)?", module):
            example = "such as `backbone.layer4` or `classifier.4:input`"
            raise ValueError(f"`{name}` must be the name of a module, {example}")
    return value


def _check_options(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if bad := [key for key in value if not key.isidentifier()]:
        raise ValueError(f"has the key `{bad[0][:100]}`, which is not the name of a keyword argument")
    return _check_overrides(value)


def _check_class_map(value: object) -> Any:
    """Each target is the index or the name of a class of the data set, or `ignore`."""
    targets = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else None
    if targets is None or not 1 <= len(targets) <= _MAX_CHANNELS:
        raise ValueError(f"must be a list with a class for each of 1 to {_MAX_CHANNELS} channels, or a mapping by name")
    for target in [*targets, *(value if isinstance(value, dict) else ())]:
        if isinstance(target, bool) or not isinstance(target, (int, str)):
            raise ValueError(f"must hold class indices, class names or `{IGNORE_CHANNEL}`, got {str(target)[:30]}")
        if isinstance(target, int) and not 0 <= target <= 254:
            raise ValueError(f"must hold class indices from 0 to 254, got {str(target)[:30]}")
        if isinstance(target, str) and (not 0 < len(target) <= 100 or first_control(target)):
            raise ValueError("must hold names of 1 to 100 characters, none of them a control character")
    return value


# Numbers. The bounds are far beyond useful values, and below what overflows float32 or never ends.
NUMBER = BeforeValidator(_check_not_bool)
NonNegative = Annotated[float, Field(ge=0.0, le=1e36), NUMBER]
Positive = Annotated[float, Field(ge=1e-9, le=1e36), NUMBER]
Fraction = Annotated[float, Field(ge=0.0, le=1.0), NUMBER]
Share = Annotated[float, Field(gt=0.0, lt=1.0), NUMBER]
Beta = Annotated[float, Field(ge=0.0, lt=1.0), NUMBER]  # weight of the past in a running mean
Percent = Annotated[float, Field(ge=0.0, le=100.0), NUMBER]
Ratio = Annotated[float, Field(ge=0.01, le=100.0), NUMBER]
PositiveCount = Annotated[int, Field(ge=1, le=65_536), NUMBER]
OneOrTwo = Annotated[int, PlainValidator(lambda value: _one_of(value, (1, 2)))]
Iterations = Annotated[int, Field(ge=1, le=100_000_000), NUMBER]
Pixels = Annotated[int, Field(ge=1, le=16_384), NUMBER]  # of one side
Byte = Annotated[int, Field(ge=0, le=255), NUMBER]
_SECONDS = BeforeValidator(lambda value: parse_duration(value) if isinstance(value, str) else value)
Duration = Annotated[float, Field(ge=1.0, le=31_536_000.0), _SECONDS, NUMBER]  # seconds, at most a year

# Text and paths.
Text = Annotated[str, Field(max_length=1000), AfterValidator(_check_text)]
ClassName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_check_text)]
Name = Annotated[str, Field(max_length=100), AfterValidator(_check_name)]
PathText = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_check_text)]
RootPath = Annotated[PathText, AfterValidator(_check_home)]
RelativePath = Annotated[
    str, Field(min_length=1, max_length=1000), AfterValidator(_check_text), AfterValidator(_check_relative)
]
ConfigPath = Annotated[
    str, Field(min_length=1, max_length=1000), AfterValidator(_check_text), AfterValidator(_check_home)
]
Sha256 = Annotated[str, AfterValidator(_check_sha256)]
FileSuffix = Annotated[
    str, Field(min_length=1, max_length=100), AfterValidator(_check_text), AfterValidator(_check_suffix)
]
HubName = Annotated[str, Field(max_length=200), AfterValidator(_check_hub_name)]
HttpsUrl = Annotated[str, Field(max_length=1000), AfterValidator(_check_url)]

# Words. YAML reads `off` as a boolean.
_OFF = BeforeValidator(lambda value: "off" if value is False else value)
AmpMode = Annotated[Literal["off", "bf16", "fp16"], _OFF]
CacheMode = Annotated[Literal["off", "ram", "disk"], _OFF]
LabelResize = Literal["bilinear", "nearest"]

# Losses: the maps they act on, their weight, custom classes.
FeatureMap = Annotated[int | str, PlainValidator(lambda value: _one_of(value, MAPS))]
LogitsMap = Annotated[str, PlainValidator(lambda value: _one_of(value, LOGITS))]
FeatureMaps = Annotated[list[FeatureMap], Field(min_length=2, max_length=len(MAPS)), AfterValidator(_check_unique)]
FeatureMapOrMaps = Annotated[int | str | list[int | str], PlainValidator(_check_map_or_maps)]
LossWeight = Annotated[float | Literal["auto"], PlainValidator(_check_loss_weight)]
LoaderProcesses = Annotated[int | Literal["auto"], PlainValidator(_check_loader_processes)]
CustomLossType = Annotated[str, Field(max_length=1000), AfterValidator(_check_text), AfterValidator(_check_custom_type)]

# Of optimizers: a part of a parameter's name.
ParameterKey = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_text)]

# Of mmsegmentation configs: dotted path below `model` -> value.
Overrides = Annotated[dict[str, JsonValue], AfterValidator(_check_overrides)]

# Of networks of other libraries, and of teachers that are files.
NetworkOptions = Annotated[dict[str, JsonValue], AfterValidator(_check_options)]
MapModules = Annotated[dict[str, str], AfterValidator(_check_map_modules)]
ClassMap = Annotated[list[int | str] | dict[str, int | str], PlainValidator(_check_class_map)]
