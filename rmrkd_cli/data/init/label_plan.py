"""Decide what the values or colours in masks mean: classes, ignored values, and how to convert other masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rmrkd_cli.data.image_file import Picture
from rmrkd_cli.data.init.class_names import BACKGROUND, VOID, ClassNames, Colour
from rmrkd_cli.data.init.mask_scan import MaskValues, indices_of_colours, indices_of_values
from rmrkd_cli.errors import RmrkdError

IGNORE = 255
_MAX_EXTRA = 5  # values beyond the classes that count as void
_MAX_COLOURS = 64  # without a file that names them; an image has thousands
_SPARSE = 3  # times as many values as there are: then they are grey levels, not indices
_SHOWN = 5


@dataclass
class LabelPlan:
    """The classes of a data set.

    Attributes:
        palette: RGB of each class; empty: rmrkd chooses colours.
        convert: Turns a mask into class indices; None if masks hold them.
        assumed: What was assumed, in sentences.
    """

    classes: list[str]
    palette: list[Colour] = field(default_factory=list)
    ignored: list[int] = field(default_factory=lambda: [IGNORE])
    convert: Callable[[Path], Picture] | None = None
    assumed: list[str] = field(default_factory=list)


def plan_labels(found: MaskValues, names: ClassNames | None) -> LabelPlan:
    """Return the classes for the values and colours in the masks.

    Raises:
        RmrkdError: The names do not fit the masks.
    """
    if found.coloured or _palette_differs(found, names):
        plan = _plan_colours(found, names)
    elif names is not None:
        plan = _plan_named_values(sorted(found.values), names)
    else:
        plan = _plan_values(sorted(found.values))
    if found.read < found.total and plan.convert is None:
        plan.assumed.append(f"the values were read from {found.read} of {found.total} masks; data check reads all")
    if len(plan.classes) < 2:
        raise RmrkdError(
            f"only one class was found: {', '.join(plan.classes) or 'none'}; at least two are needed",
            "name the background too, in a file classes.txt: --classes FILE",
        )
    return plan


def _palette_differs(found: MaskValues, names: ClassNames | None) -> bool:
    """Return whether palette images hold the colours of the names, under other values than their places."""
    if names is None or names.colours is None or not found.palette:
        return False
    own = dict(enumerate(names.colours))
    used = {value: colour for value, colour in found.palette.items() if value != IGNORE}
    return any(own.get(value) != colour for value, colour in used.items()) and set(used.values()) <= set(own.values())


def _plan_colours(found: MaskValues, names: ClassNames | None) -> LabelPlan:
    if names is not None and names.colours is None:
        raise RmrkdError(
            f"the masks hold {len(found.colours)} colours, and `{names.file}` names {len(names.names)} classes without "
            f"their colours: {_join(found.colours)}",
            "write the colour of each class into a file, one line `NAME:R,G,B::` for each: --classes FILE",
        )
    if names is None:
        return _plan_unnamed_colours(found)
    assert names.colours is not None
    border = [found.palette[IGNORE]] if not found.coloured and IGNORE in found.palette else []  # of palette images
    unknown = sorted(set(found.colours).difference(names.colours, border))
    if unknown:
        raise RmrkdError(
            f"the masks hold {len(unknown)} colours that `{names.file}` does not name: {_join(unknown)}",
            "add a line `NAME:R,G,B::` for each class, or `void:R,G,B::` for a colour to ignore; if they are at the "
            "borders of objects, export the masks again without smoothing and scaling",
        )
    kept = [number for number, name in enumerate(names.names) if name.lower() not in VOID]
    table = dict.fromkeys([*border, *names.colours], IGNORE) | {
        names.colours[number]: place for place, number in enumerate(kept)
    }
    plan = LabelPlan(
        [names.names[number] for number in kept], [names.colours[number] for number in kept],
        convert=partial(indices_of_colours, table),
    )  # fmt: skip
    if void := [name for name in names.names if name.lower() in VOID]:
        plan.assumed.append(f"pixels of {_join(void)} are ignored: they become {IGNORE}")
    return plan


def _plan_unnamed_colours(found: MaskValues) -> LabelPlan:
    """Return a class for each colour, black first."""
    if len(found.colours) > _MAX_COLOURS:
        raise RmrkdError(
            f"the masks hold {len(found.colours)} colours, and no file says which are classes",
            "write one line `NAME:R,G,B::` for each class into labelmap.txt; colours at the borders of objects come "
            "from smoothing or scaling: export the masks without it",
        )
    colours = sorted(found.colours)
    classes = ["background" if colour == (0, 0, 0) else f"colour_{bytes(colour).hex()}" for colour in colours]
    table = {colour: place for place, colour in enumerate(colours)}
    assumed = [f"each of the {len(colours)} colours in the masks is a class, named after it: rename them"]
    assumed += ["black is the background"] if classes[0] == "background" else []
    return LabelPlan(classes, colours, convert=partial(indices_of_colours, table), assumed=assumed)


def _plan_named_values(values: list[int], names: ClassNames) -> LabelPlan:
    classes, assumed = list(names.names), []
    present = [value for value in values if value != IGNORE]
    if present in ([0], []) and IGNORE in values and len(classes) <= 2:
        return _plan_binary(classes[-1] if len(classes) == 1 or classes[1] not in BACKGROUND else classes[0])
    first = 0 if names.indices is None else names.indices[0]
    if names.indices is None and present and present[-1] == len(classes) and classes[0].lower() not in BACKGROUND:
        first = 1
        assumed.append(
            f"the values 1..{len(classes)} are the {len(classes)} names of `{names.file}`, and 0 is the background; if "
            f"{len(classes)} is void and 0 is `{classes[0]}`, remove `background` and write `ignore_labels: "
            f"[{len(classes)}, 255]`"
        )
    if names.indices is not None and list(names.indices) != list(range(first, first + len(classes))):
        if names.indices[-1] >= IGNORE:
            raise RmrkdError(
                f"`{names.file}` has the index {names.indices[-1]}, at most 254 is allowed", "--classes FILE"
            )
        by_index = dict(zip(names.indices, names.names, strict=True))
        classes, first = [by_index.get(index, f"unused_{index}") for index in range(names.indices[-1] + 1)], 0
        assumed.append(f"indices that `{names.file}` does not name are classes `unused_N`")
    ignored = [IGNORE]
    if first == 1:
        classes.insert(0, "background" if 0 in present else "void")
        if 0 not in present:
            ignored.insert(0, 0)
            assumed.append("no mask holds 0: it is named `void`, and ignored")
    return _with_void(LabelPlan(classes, list(_palette(names, classes)), ignored, assumed=assumed), present, names.file)


def _palette(names: ClassNames, classes: list[str]) -> tuple[Colour, ...]:
    return names.colours if names.colours is not None and list(names.names) == classes else ()


def _with_void(plan: LabelPlan, present: list[int], file: str) -> LabelPlan:
    """Ignore classes named void, and a few values beyond the classes."""
    void = [place for place, name in enumerate(plan.classes) if name.lower() in VOID and place not in plan.ignored]
    while void and void[-1] == len(plan.classes) - 1 and len(plan.classes) > 1:  # the last needs no place
        plan.ignored.append(place := void.pop())
        plan.assumed.append(f"`{plan.classes.pop()}` is ignored: value {place}")
        plan.palette = plan.palette[: len(plan.classes)]
    for place in void:
        plan.ignored.append(place)
        plan.assumed.append(f"`{plan.classes[place]}` is ignored: value {place}")
    extra = [value for value in present if value >= len(plan.classes) and value not in plan.ignored]
    if len(extra) > _MAX_EXTRA:
        raise RmrkdError(
            f"the masks hold {len(extra)} values beyond the {len(plan.classes)} classes of `{file}`: {_join(extra)}",
            "name all classes, in the order of their values: --classes FILE",
        )
    if extra:
        plan.ignored += extra
        plan.assumed.append(f"`{file}` names {len(plan.classes)} classes, so the values {_join(extra)} are ignored")
    plan.ignored.sort()
    return plan


def _plan_values(values: list[int]) -> LabelPlan:
    """Return classes for values that no file names."""
    present = [value for value in values if value != IGNORE]
    if present == [0] and IGNORE in values:
        return _plan_binary("object")
    if present == [0, 1]:
        return LabelPlan(["background", "object"], assumed=["0 is the background and 1 the object: rename them"])
    last = present[-1] if present else 0
    if last + 1 > _SPARSE * len(values) and len(values) <= _MAX_COLOURS:
        table = {value: place for place, value in enumerate(values)}
        classes = ["background" if value == 0 else f"grey_{value}" for value in values]
        return LabelPlan(
            classes, convert=partial(indices_of_values, table),
            assumed=[f"each of the grey levels {_join(values)} is a class, also 255: rename them"],
        )  # fmt: skip
    assumed = [f"the values 0..{last} are {last + 1} classes without names: rename them"]
    missing = sorted(set(range(last)) - set(present))
    assumed += [f"no mask that was read holds {_join(missing)}"] if missing else []
    return LabelPlan([f"class_{value}" for value in range(last + 1)], assumed=assumed)


def _plan_binary(name: str) -> LabelPlan:
    return LabelPlan(
        ["background", name], convert=partial(indices_of_values, {0: 0, IGNORE: 1}),
        assumed=[f"the masks hold 0 and 255 alone: 255 is `{name}`, not ignored"],
    )  # fmt: skip


def _join(values: object) -> str:
    items = [str(value) for value in values]  # type: ignore[attr-defined]
    return ", ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
