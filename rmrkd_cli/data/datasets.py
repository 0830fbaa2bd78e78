"""Describe each data set: layout, classes, palette and scales."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path

from rmrkd_cli.data.palette import Palette as Palette
from rmrkd_cli.data.palette import distinct_palette
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.installation.mmseg import require_mmseg
from rmrkd_cli.presets.schema import Data, Folder, Preset
from rmrkd_cli.storage.cache import cache_dir

ClassesAndPalette = tuple[tuple[str, ...], Palette]


@dataclass(frozen=True)
class Split:
    """The folders of one split, relative to the root of the data set.

    Attributes:
        images: The image folder.
        parts: Lists of names, each with its label folder; None in place of a list takes all files of the folder, None
            in place of a label folder says that these images have no label maps.
    """

    images: str
    parts: tuple[tuple[str | None, str | None], ...]

    def without_labels(self) -> Split:
        """Return the same images, without label maps."""
        return replace(self, parts=tuple((names, None) for names, _ in self.parts))


@dataclass(frozen=True)
class UnlabelledImages:
    """Images that have no label maps.

    Attributes:
        folder: Searched with its subfolders.
        names: Text file with one file a line, relative to the folder; None: every image.
        suffix: End of the file names; None: of any image format.
    """

    folder: Path
    names: Path | None = None
    suffix: str | None = None


@dataclass(frozen=True)
class DatasetInfo:
    """The description of a data set.

    Attributes:
        load_classes: Returns the class names and their colours; without colours, each class gets a distinct one.
            mmsegmentation's are read from its source when needed.
        scale: (width, height) that training images are fitted into, before the random ratio.
        eval_scale: The same for evaluation images.
        ignore_labels: Values in the label files that become 255, the ignored label.
        reduce_zero_label: Labels count from 1, and 0 is ignored (ADE20K).
        generate: Writes a generated data set into its root; None for others.
        max_value: The value of white in images beyond 8 bits; None: they are refused.
        label_ids: The value of each class on the data set's test server; None if it is the class index.
        unlabelled: Further images to distil on; None: there are none.
    """

    name: str
    root: Path
    splits: dict[str, Split]
    load_classes: Callable[[], ClassesAndPalette]
    scale: tuple[int, int]
    eval_scale: tuple[int, int]
    image_suffix: str
    label_suffix: str
    ignore_labels: tuple[int, ...] = (255,)
    reduce_zero_label: bool = False
    generate: Callable[[Path], None] | None = None
    max_value: float | None = None
    label_ids: tuple[int, ...] | None = None
    unlabelled: UnlabelledImages | None = None

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return self.load_classes()[0]

    @cached_property
    def palette(self) -> Palette:
        return self.load_classes()[1] or distinct_palette(self.num_classes)

    @property
    def num_classes(self) -> int:
        return len(self.classes)


def _split(images: str, labels: str, names: str | None = None) -> Split:
    return Split(images, ((names, labels),))


_CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
_CAMVID_PALETTE: Palette = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip


def dataset_info(preset: Preset) -> DatasetInfo:
    """Return the data set of a preset, with the root, scales and (for `custom`) folders and classes of the preset.

    Raises:
        RmrkdError: When a `custom` data set has no root or no scale.
    """
    info = _BUILDERS[preset.dataset](preset)
    data = preset.data
    changes: dict[str, object] = {"max_value": data.max_value}
    if data.root is not None:
        changes["root"] = Path(data.root).expanduser()
    if data.train_scale is not None:
        changes["scale"] = data.train_scale
    if data.eval_scale is not None:
        changes["eval_scale"] = data.eval_scale
    if data.train_labels != "files":
        changes["splits"] = {**info.splits, "train": info.splits["train"].without_labels()}
    info = replace(info, **changes)  # type: ignore[arg-type]
    return replace(info, unlabelled=_unlabelled_images(data, info.root)) if data.unlabelled is not None else info


def dataset_without_images(preset: Preset) -> DatasetInfo:
    """Return the description of a preset's data set for its classes and sizes, wherever its images are."""
    if preset.dataset == "custom" and preset.data.root is None:
        preset = preset.model_copy(update={"data": preset.data.model_copy(update={"root": "."})})
    return dataset_info(preset)


def _unlabelled_images(data: Data, root: Path) -> UnlabelledImages | None:
    """Return where the unlabelled images are; relative paths are below the data root."""
    if data.unlabelled is None:
        return None
    folder = root / Path(data.unlabelled.images).expanduser()
    names = data.unlabelled.names
    return UnlabelledImages(
        folder, root / Path(names).expanduser() if names is not None else None, data.unlabelled.suffix
    )


def _classes(classes: tuple[str, ...], palette: Palette) -> ClassesAndPalette:
    return classes, palette


def _mmseg_classes(file: str) -> ClassesAndPalette:
    """Parse the source of an mmsegmentation data set; importing it would take seconds."""
    require_mmseg()
    package = find_spec("mmseg")
    assert package is not None
    assert package.origin is not None
    tree = ast.parse((Path(package.origin).parent / "datasets" / file).read_text(encoding="utf-8"))
    values = {
        target.id: ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("CLASSES", "PALETTE")
    }
    return tuple(values["CLASSES"]), tuple((int(r), int(g), int(b)) for r, g, b in values["PALETTE"])


_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def _cityscapes(preset: Preset) -> DatasetInfo:
    return DatasetInfo(
        name="cityscapes",
        root=Path("data/cityscapes"),
        splits={part: _split(f"leftImg8bit/{part}", f"gtFine/{part}") for part in ("train", "val", "test")},
        load_classes=partial(_mmseg_classes, "cityscapes.py"),
        scale=(2048, 1024),
        eval_scale=(2048, 1024),
        image_suffix="_leftImg8bit.png",
        label_suffix="_gtFine_labelTrainIds.png",
        label_ids=_CITYSCAPES_IDS,
    )


def _voc12aug(preset: Preset) -> DatasetInfo:
    lists, labels = "ImageSets/Segmentation", "SegmentationClass"
    train = Split("JPEGImages", ((f"{lists}/train.txt", labels), (f"{lists}/aug.txt", "SegmentationClassAug")))
    return DatasetInfo(
        name="voc12aug",
        root=Path("data/VOCdevkit/VOC2012"),
        splits={"train": train, "val": _split("JPEGImages", labels, f"{lists}/val.txt")},
        load_classes=partial(_mmseg_classes, "voc.py"),
        scale=(2048, 512),
        eval_scale=(2048, 512),
        image_suffix=".jpg",
        label_suffix=".png",
    )


def _ade20k(preset: Preset) -> DatasetInfo:
    folders = {"train": "training", "val": "validation"}
    return DatasetInfo(
        name="ade20k",
        root=Path("data/ade/ADEChallengeData2016"),
        splits={part: _split(f"images/{name}", f"annotations/{name}") for part, name in folders.items()},
        load_classes=partial(_mmseg_classes, "ade.py"),
        scale=(2048, 512),
        eval_scale=(2048, 512),
        image_suffix=".jpg",
        label_suffix=".png",
        reduce_zero_label=True,
        label_ids=tuple(range(1, 151)),
    )


def _camvid(preset: Preset) -> DatasetInfo:
    return DatasetInfo(
        name="camvid",
        root=Path("data/camvid"),
        splits={part: _split(part, f"{part}annot") for part in ("train", "val", "test")},
        load_classes=partial(_classes, _CAMVID_CLASSES, _CAMVID_PALETTE),
        scale=(480, 360),
        eval_scale=(480, 360),
        image_suffix=".png",
        label_suffix=".png",
        ignore_labels=(11, 255),
    )


def _demo(preset: Preset) -> DatasetInfo:
    from rmrkd_cli.data import demo

    return DatasetInfo(
        name="demo",
        root=cache_dir() / demo.FOLDER,
        splits={part: _split(part, f"{part}annot") for part in demo.SPLITS},
        load_classes=partial(_classes, demo.CLASSES, demo.PALETTE),
        scale=demo.SIZE,
        eval_scale=demo.SIZE,
        image_suffix=".png",
        label_suffix=".png",
        generate=demo.make_demo if preset.data.root is None else None,
    )


def _custom(preset: Preset) -> DatasetInfo:
    data: Data = preset.data
    classes = tuple(data.classes or ())
    folders: dict[str, Folder | None] = {"train": data.train, "val": data.val, "test": data.test}
    if data.root is None:
        raise RmrkdError(
            "dataset `custom` needs a data root",
            "give it with --data-root DIR, or with `data: {root: DIR}` in the preset",
        )
    scale = data.train_scale or data.eval_scale
    if scale is None:
        raise RmrkdError(
            "dataset `custom` needs the size that images are fitted into",
            "add `data: {train_scale: [WIDTH, HEIGHT]}` to the preset",
        )
    return DatasetInfo(
        name="custom",
        root=Path(data.root),
        splits={part: _split(str(f.images), f.labels, f.names) for part, f in folders.items() if f is not None},
        load_classes=partial(_classes, classes, tuple(data.palette or ())),
        scale=scale,
        eval_scale=data.eval_scale or scale,
        image_suffix=data.image_suffix,
        label_suffix=data.label_suffix,
        ignore_labels=tuple(data.ignore_labels),
    )


_BUILDERS = {
    "cityscapes": _cityscapes,
    "voc12aug": _voc12aug,
    "ade20k": _ade20k,
    "camvid": _camvid,
    "demo": _demo,
    "custom": _custom,
}
