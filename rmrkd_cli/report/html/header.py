"""The first lines of the page: its title, and the result in one sentence."""

from __future__ import annotations

import re

from markupsafe import Markup

from rmrkd_cli.comparison.types import Comparison, Difference, Group
from rmrkd_cli.report.html.text import label_html
from rmrkd_cli.report.image_selection import main_difference
from rmrkd_cli.report.intervals import bounds_text
from rmrkd_cli.terminal.text import abbreviate_labels, format_percent, format_points, plural, shorten, typeset_minus

_BOLD = re.compile("</?b>")


def title_of(comparison: Comparison) -> str:
    """Return the title of the page, not escaped for HTML."""
    protocol, main = comparison.protocol, main_difference(comparison)
    dataset = f"{shorten(_dataset_name(comparison))} {shorten(protocol['split'])}"
    if main is None:
        return f"Results on {dataset}"
    names = abbreviate_labels((main.to, main.base), 30)
    return f"{names[main.to]} compared with {names[main.base]} on {dataset}"


def _dataset_name(comparison: Comparison) -> str:
    """Return the name of the data set; for `custom`, which says nothing, the name of the preset that all runs share."""
    name = str(comparison.protocol["dataset"])
    presets = {str(record["name"]) for record in comparison.records if record.get("name")}
    return presets.pop() if name == "custom" and len(presets) == 1 else name


def conclusion(comparison: Comparison) -> Markup:
    """Return the main difference in one sentence that claims no more than its interval.

    While a warning limits what it means, it speaks of these images only, and nothing in it is bold.
    """
    main = main_difference(comparison)
    groups = {group.label: group for group in comparison.groups}
    if main is None or main.mean.value is None or main.base not in groups or main.to not in groups:
        return Markup("There is no difference of mIoU between two of these results.")
    text = _sentence(main, groups[main.base], groups[main.to])
    return text if not comparison.warnings else _soften(text, comparison.protocol["images"])


def _soften(text: Markup, images: int) -> Markup:
    """Return the sentence as a statement about these images, without bold."""
    plain = _BOLD.sub("", text)
    where = "this image" if images == 1 else f"these {images:,} images"
    return Markup(f"On {where}, {plain[:1].lower()}{plain[1:]}")


def _sentence(main: Difference, base: Group, to: Group) -> Markup:
    value, bounds = main.mean.value or 0.0, typeset_minus(bounds_text(main.mean))
    facts = {
        "to": label_html(main.to), "base": label_html(main.base), "bounds": bounds,
        "signed": typeset_minus(format_points(value)), "size": format_points(abs(value)).lstrip("+"),
        "values": f"{format_percent(to.miou)} and {format_percent(base.miou)} % mIoU, {_runs(base, to)}",
        "more": "more" if value >= 0 else "less", "better": "better" if value > 0 else "worse",
    }  # fmt: skip
    if not bounds and format_points(abs(value)) == "+0.00":
        text = "<b>{to}</b> and {base} have the same mIoU; no interval could be computed ({values})."
    elif not bounds:
        text = (
            "<b>{to}</b> has <b>{size} points of mIoU</b> {more} than {base}; no interval could be computed ({values})."
        )
    elif not main.mean.excludes_zero:
        text = (
            "The data do not decide whether <b>{to}</b> is better than {base}: the difference is <b>{signed}</b> "
            "points of mIoU, and its 95 % interval, {bounds}, includes zero ({values})."
        )
    else:
        text = "<b>{to}</b> is {better} than {base} by <b>{size} points of mIoU</b>, 95 % interval {bounds} ({values})."
    return Markup(text).format(**facts)


def _runs(base: Group, to: Group) -> str:
    first, second = len(to.records), len(base.records)
    if first == second:
        return "one run each" if first == 1 else f"means of {plural(first, 'run')} each"
    return f"means of {plural(first, 'run')} and {plural(second, 'run')}"
