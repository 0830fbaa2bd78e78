"""Look at a folder of images and masks, and write the files that `train` needs: the preset, lists, label maps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rmrkd_cli.data.image_io import inspect_image
from rmrkd_cli.data.init.class_names import NAME_FILES, find_class_names
from rmrkd_cli.data.init.folders import CONVERTED, Files, list_files
from rmrkd_cli.data.init.label_plan import IGNORE, LabelPlan, plan_labels
from rmrkd_cli.data.init.labelme import LabelmeFile, draw_shapes, find_labelme, labelme_classes
from rmrkd_cli.data.init.mask_scan import scan_masks
from rmrkd_cli.data.init.pairing import Pairs, Part, describe_files, find_pairs
from rmrkd_cli.data.init.splits import complete_splits
from rmrkd_cli.data.prepare.new_files import CONFLICT, write_name_list
from rmrkd_cli.data.prepare.pipeline import Conversion, PrepareResult, Progress, convert_label_maps
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.text import plural

_MAX_IMAGES = 64  # of which the size is read
_SHOWN = 3
_LAYOUTS = (
    "images/train with masks/train, train with trainannot, a.jpg with a_mask.png in one folder, JPEGImages with "
    "SegmentationClass, or JSON files of Labelme beside their images"
)


@dataclass
class FolderPreset:
    """What `rmrkd init` has found, and what it is about to write.

    Attributes:
        pairs: With the folders of the label maps that training reads.
        sizes: (width, height) of images -> how many, of `images_read`.
        max_value: The value of white in images beyond 8 bits; None for others.
        lists: Lists of names to write, relative to the root.
        conversions: Label maps to write.
        names_file: Which file names the classes; empty if there is none.
    """

    root: Path
    pairs: Pairs
    labels: LabelPlan
    sizes: Counter[tuple[int, int]]
    max_value: float | None
    lists: dict[str, list[str]]
    conversions: list[Conversion] = field(default_factory=list)
    names_file: str = ""
    assumed: list[str] = field(default_factory=list)


def inspect_folder(root: Path, classes_file: Path | None = None) -> FolderPreset:
    """Return the description of a folder of images and masks. Nothing is written.

    Raises:
        RmrkdError: There are no pairs, a file is damaged, or the masks cannot be understood.
    """
    files = list_files(root)
    names, other_names = find_class_names(root, classes_file)
    assumed = [f"`{file}` names classes too, and is not used: --classes FILE" for file in other_names]
    pairs = find_pairs(files)
    polygons: list[LabelmeFile] = []
    if pairs is None:
        pairs, polygons, found_labels = _labelme_pairs(files)
        classes, more = labelme_classes(found_labels, names)
        labels = LabelPlan(classes, assumed=more)
    lists, more = complete_splits(root, pairs)
    paths = [root / part.labels / f"{name}{pairs.label_suffix}" for part in pairs.parts.values() for name in part.names]
    if not polygons:
        labels = plan_labels(scan_masks(paths, pairs.label_suffix), names)
    images = [
        root / part.images / f"{name}{pairs.image_suffix}" for part in pairs.parts.values() for name in part.names
    ]
    sizes, max_value = _inspect_images(images)
    found = FolderPreset(
        root, pairs, labels, sizes, max_value, lists, names_file=names.file if names is not None else "",
        assumed=[*assumed, *more, *labels.assumed],
    )  # fmt: skip
    if polygons or labels.convert is not None:
        _plan_conversions(found, {polygon.image: polygon.path for polygon in polygons})
    return found


def write_folder_files(found: FolderPreset, workers: int, on_progress: Progress) -> PrepareResult:
    """Write the label maps and lists that the preset names; existing files are compared, and never replaced.

    Raises:
        RmrkdError: A file exists with other contents, or a mask cannot be converted.
        OSError: A file cannot be written.
    """
    result = convert_label_maps(found.conversions, workers, on_progress) if found.conversions else PrepareResult()
    for file, names in found.lists.items():
        status, problem = write_name_list(names, found.root / file)
        result.add(found.root / file, status, f"{problem}; it was not changed" if status == CONFLICT else problem)
    if result.problems:
        raise RmrkdError(
            f"{plural(len(result.problems), 'problem')} in `{found.root}`:\n{result.list_problems(_SHOWN)}",
            f"existing files are never overwritten: fix the named files, or move `{CONVERTED}` and `rmrkd-*.txt` away, "
            "then run the same command again",
        )
    return result


def _labelme_pairs(files: Files) -> tuple[Pairs, list[LabelmeFile], list[str]]:
    """Return the images with polygons as pairs, of which the masks are still to be drawn."""
    polygons, labels = find_labelme(files.root, files.json)
    if not polygons:
        raise _no_masks(files)
    suffixes = Counter(Path(polygon.image).suffix for polygon in polygons)
    suffix, _ = suffixes.most_common(1)[0]
    if len(suffixes) > 1:
        found = ", ".join(f"{count} in `{end}`" for end, count in suffixes.most_common())
        raise RmrkdError(
            f"the images with polygons have different suffixes: {found}",
            f"a preset reads one suffix: convert the other images to `{suffix}`, and correct `imagePath` in the JSON",
        )
    annotated = {polygon.image for polygon in polygons}
    parts: dict[str, Part] = {}
    for place, names in files.images.items():
        folder = "" if place.folder == "." else f"{place.folder}/"
        used = {name[: -len(suffix)] for name in names if folder + name in annotated}
        if used and place.split in parts:
            raise RmrkdError(
                f"two folders of images are for the same split: `{parts[place.split].images}` and `{place.folder}`",
                "give rmrkd init one of the folders",
            )
        if used:
            alone = {name[: -len(suffix)] for name in names if name.endswith(suffix)} - used
            parts[place.split] = Part(place.folder, place.folder, sorted(used), sorted(alone))
    return Pairs(parts, suffix, ".json"), polygons, labels


def _no_masks(files: Files) -> RmrkdError:
    coco = any("annotation" in name.lower() or "coco" in name.lower() for name in files.json)
    hint = (
        "masks are image files here: export the annotations as masks, such as CVAT's `Segmentation mask 1.1`"
        if coco
        else f"arrange the files in one of these layouts; {', '.join(NAME_FILES[:4])} and others name the classes"
    )
    if any(name.endswith("_json/label.png") for names in files.images.values() for name in names):
        hint = (
            "label.png of labelme_json_to_dataset counts its values anew in every file: add the JSON files themselves"
        )
    return RmrkdError(
        f"no image in `{files.root}` has a mask; looked for {_LAYOUTS}; found {describe_files(files)}", hint
    )


def _inspect_images(paths: list[Path]) -> tuple[Counter[tuple[int, int]], float | None]:
    """Return the sizes of some images, evenly spread, and the value of white if they are not of 8 bits."""
    step = max(1.0, len(paths) / _MAX_IMAGES)
    sizes: Counter[tuple[int, int]] = Counter()
    white: float | None = None
    for number in range(min(len(paths), _MAX_IMAGES)):
        facts = inspect_image(paths[int(number * step)], decode=False)
        sizes[(facts.size.width, facts.size.height)] += 1
        if facts.values is not None:
            white = max(white or 0.0, facts.values.suggested)
    return sizes, white


def _plan_conversions(found: FolderPreset, polygons: dict[str, Path]) -> None:
    """Plan a label map of class indices for each mask or JSON file, and let the preset name their folder."""
    pairs, values = found.pairs, (*range(len(found.labels.classes)), IGNORE)
    classes = {name: index for index, name in enumerate(found.labels.classes)}
    classes |= {word: 0 for word in ("_background_", "__background__", "background") if word not in classes}
    draw = partial(draw_shapes, classes, found.root)
    for part in pairs.parts.values():
        folder = CONVERTED if part.labels == "." else f"{CONVERTED}/{part.labels}"
        for name in part.names:
            image = found.root / part.images / f"{name}{pairs.image_suffix}"
            source = found.root / part.labels / f"{name}{pairs.label_suffix}"
            if polygons:
                source = polygons[image.relative_to(found.root).as_posix()]
            convert = found.labels.convert or draw
            found.conversions.append(Conversion(convert, source, found.root / folder / f"{name}.png", image, values))
        part.labels = folder
    pairs.label_suffix = ".png"
    kind = "polygons are drawn" if polygons else "masks are written as class indices"
    found.assumed.append(f"the {kind} into the new folder `{CONVERTED}`, which training reads")
