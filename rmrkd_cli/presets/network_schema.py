"""The keys of `teacher` and `student`: a network of a library, or a teacher that is a file.

As in `schema.py`, each line is one key with its default and meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from rmrkd_cli.presets.fields import (
    NUMBER,
    ConfigPath,
    HttpsUrl,
    HubName,
    MapModules,
    NetworkOptions,
    Overrides,
    PathText,
    Pixels,
    Sha256,
    Text,
)
from rmrkd_cli.presets.validation import StrictModel

Library = Literal["mmseg", "torchvision", "smp", "transformers", "python", "onnx", "torchscript"]
FILE_LIBRARIES = ("onnx", "torchscript")  # a file that gives logits, and no feature maps
FEATURE_CLASSES = ("Dinov2Model", "Dinov2WithRegistersModel")  # of transformers: feature maps, and no logits
_MMSEG_ONLY = ("config", "overrides")
_FILE_ONLY = ("file", "input", "output", "classes")
_LIBRARY_ONLY = ("name", "options", "weights", "maps")
_NUMBERS = Annotated[float, Field(ge=-1e6, le=1e6), NUMBER]
_SCALES = Annotated[float, Field(ge=1e-6, le=1e6), NUMBER]


class CheckpointSource(StrictModel):
    """A weights file: either `url` with `sha256`, or `path`, or `hub`."""

    example = "`{path: FILE}` or `{url: https://…, sha256: …}`"

    url: HttpsUrl | None = None  # https address of the file
    sha256: Sha256 | None = None  # the first 8 to 64 hex digits
    path: PathText | None = None  # local file
    hub: HubName | None = None  # model on the Hugging Face hub, and after `@` its commit
    allow_partial: bool = False  # load the matching tensors where the file does not cover the network

    @classmethod
    def cross_field_problems(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        if sum(raw.get(key) is not None for key in ("url", "path", "hub")) != 1:
            yield "give either `url` or `path`, or `hub`"
        if raw.get("url") is not None and raw.get("sha256") is None:
            yield "`url` needs `sha256`, at least the first 8 hex digits"


class Network(StrictModel):
    """A network of a library: a config of mmsegmentation, or a class or function by its name."""

    example = (
        "a mapping such as `{config: pspnet/pspnet_r18-d8_512x1024_80k_cityscapes.py}` or "
        "`{library: torchvision, name: lraspp_mobilenet_v3_large}`"
    )

    library: Library = "mmseg"  # where the network comes from; onnx, torchscript: a teacher that is a file
    config: ConfigPath | None = None  # mmseg: path below mmsegmentation's `configs` folder
    overrides: Overrides = {}  # mmseg: dotted path below the config's `model` -> value
    # Other libraries: the name of a model or class; `python`: FILE.py:function.
    name: Text | None = None
    options: NetworkOptions = {}  # other libraries: keyword arguments of the constructor
    weights: PathText | None = None  # other libraries: `none`, a file, or a name that the library knows
    maps: MapModules = {}  # other libraries: feature map -> module whose output it is, or `MODULE:input`
    checkpoint: CheckpointSource | None = None  # weights of the whole network; None: see `init` and `weights`
    init: Literal["imagenet", "scratch"] = "imagenet"  # mmseg: backbone weights where `checkpoint` is None

    @property
    def gives_only_features(self) -> bool:
        """Whether it gives feature maps and no logits: as the teacher only, and it cannot be trained."""
        return self.library == "transformers" and self.name in FEATURE_CLASSES

    @classmethod
    def cross_field_problems(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        library = raw.get("library", "mmseg")
        if not isinstance(library, str):
            return
        if library in FILE_LIBRARIES and "file" not in cls.model_fields:
            yield f"`library: {library}` is for `teacher` only: a file cannot be trained"
            return
        if library == "mmseg" and raw.get("config") is None:
            yield (
                "needs `config`, a config of mmsegmentation; for a network of another library name it with `library` "
                "and `name`"
            )
        required = {"mmseg": "config"} | dict.fromkeys(FILE_LIBRARIES, "file")
        if library != "mmseg" and raw.get(required.get(library, "name")) is None:
            yield f"`library: {library}` needs `{required.get(library, 'name')}`"
        if library in FILE_LIBRARIES and raw.get("checkpoint") is not None:
            yield f"`checkpoint` is not for `library: {library}`: the whole network is in `file`"
        own = {"mmseg": _MMSEG_ONLY} | dict.fromkeys(FILE_LIBRARIES, _FILE_ONLY)
        groups = {"mmseg": _MMSEG_ONLY, "onnx or torchscript": _FILE_ONLY, "of another library": _LIBRARY_ONLY}
        for whose, keys in groups.items():
            if keys != own.get(library, _LIBRARY_ONLY):
                known = [key for key in keys if key in cls.model_fields]
                given = [key for key in known if raw.get(key, None) not in (None, cls.model_fields[key].default)]
                yield from (f"`{key}` is for networks {whose}, not for `library: {library}`" for key in given)


def student_problems(raw: Any) -> Iterator[str]:
    """Yield what is wrong with the network of a student; `raw` may have any type, which its own check reports."""
    keys = raw.model_dump() if isinstance(raw, Network) else raw
    if isinstance(keys, Mapping) and keys.get("library") == "transformers" and keys.get("name") in FEATURE_CLASSES:
        yield f"`student.name: {keys['name']}` is for `teacher` only: it gives feature maps and no logits"


class FileInput(StrictModel):
    """The images that a teacher's file expects: values from 0 to 255, minus `mean`, divided by `std`."""

    example = "a mapping such as `{mean: [127.5, 127.5, 127.5], std: [127.5, 127.5, 127.5], color: rgb}`"

    # Of values from 0 to 255, in `color` order. None: as `rmrkd export` wrote into the file, else as for ImageNet.
    mean: tuple[_NUMBERS, _NUMBERS, _NUMBERS] | None = None
    std: tuple[_SCALES, _SCALES, _SCALES] | None = None  # the same
    color: Literal["rgb", "bgr"] | None = None  # order of the channels; None: as in the file, else rgb
    # Height and width at which the file is run for a whole image; a crop is scaled alike. None: that of the image.
    size: tuple[Pixels, Pixels] | None = None
    # The outermost positions of the output lie on the corners of the input, as for a stride of 16 at 481x641.
    align_corners: bool | None = None
