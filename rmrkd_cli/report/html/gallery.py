"""Pictures: image, truth, predictions, where two of them disagree, and a slider between any two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rmrkd_cli.comparison.types import Comparison, Difference
from rmrkd_cli.report.figures.class_maps import Image, disagreement, full_palette, numbered, pair_of, reduced
from rmrkd_cli.report.html.images import class_map, photograph
from rmrkd_cli.report.image_selection import Picture, ReportImages, main_difference
from rmrkd_cli.terminal.text import abbreviate_labels, escaped, name, plural, points, short


def gallery_section(comparison: Comparison, pictures: ReportImages) -> str:
    missing = "".join(f"<li>{escaped(short(line, 400))}</li>" for line in pictures.missing)
    notes = f"<h3>Not shown</h3><ul class=missing>{missing}</ul>" if missing else ""
    if not pictures.shown:
        return f"<p>No pictures.</p>{notes}"
    main = main_difference(comparison)
    kinds = {kind: [one for one in pictures.shown if one.choice.why == kind] for kind in ("won", "lost", "random")}
    told = _told(kinds, main, comparison.protocol["images"])
    parts, number = [], 0
    for kind, heading in _headings(main).items():
        figures = []
        for picture in kinds[kind]:
            figures.append(_figure(picture, pictures, main, comparison.classes, number))
            number += 1
        if figures:
            parts.append(f"<h3>{heading}</h3><div class=gallery>{''.join(figures)}</div>")
    pair = pair_of(main, list(pictures.shown[0].predictions))
    return f"<p>{told}</p>{_by(pictures)}{_legend(comparison.classes, pictures, pair)}{''.join(parts)}{notes}"


def _headings(main: Difference | None) -> dict[str, str]:
    to, base = (name(main.to), name(main.base)) if main else ("", "")
    return {
        "won": f"Extremes: where {to} gains most on {base}",
        "lost": f"Extremes: where {to} loses most to {base}",
        "random": "At random",
    }


def _told(kinds: Mapping[str, Sequence[Picture]], main: Difference | None, count: int) -> str:
    won, lost, others = (len(kinds[kind]) for kind in ("won", "lost", "random"))
    shown = f"{won + lost + others} of {plural(count, 'image')}: "
    if not won + lost:
        return f"{shown}drawn at random with a fixed seed."
    return (
        f"{shown}the {won} that gain most and the {lost} that lose most in mean IoU of the image, which are extremes "
        f"and no evidence of the whole, and {others} drawn at random with a fixed seed."
    )


def _by(pictures: ReportImages) -> str:
    told = "; ".join(f"{name(label)}: {escaped(text)}" for label, text in pictures.predicted_by.items() if text)
    return f"<p class=small>Predictions are of {told}.</p>" if told else ""


def _legend(classes: Sequence[str], pictures: ReportImages, pair: tuple[str, str] | None) -> str:
    """The classes that occur in the pictures, with the colour and the number they have in the maps.

    Args:
        pair: Labels of the two predictions whose disagreement is shown.
    """
    colours = full_palette(pictures.palette).tolist()
    seen: set[int] = set()
    for picture in pictures.shown:
        for held in (picture.truth, *picture.predictions.values()):
            seen |= set(np.unique(held).tolist())
    items = "".join(
        f"<li>{_swatch(colours[k])}<b>{k}</b> {name(classes[k])}</li>"
        for k in sorted(seen)
        if k < len(classes) and k < len(pictures.palette)
    )
    ignored = f"<li>{_swatch(colours[255])}not counted</li>" if 255 in seen else ""
    return (
        "<details class=legend open><summary>Legend: numbers in the maps are classes</summary>"
        f"<ul>{items}{ignored}</ul>{_marks(*pair) if pair is not None else ''}</details>"
    )


def _marks(first: str, second: str) -> str:
    base, to = name(first), name(second)
    marks = "".join(
        f"<li><svg class=swatch width=18 height=14 aria-hidden=true><rect class={kind} width=18 height=14 /></svg>"
        f"<span>{text}</span></li>"
        for kind, text in (
            ("won", f"full: {to} is right, {base} is not"),
            ("lost", f"striped: {base} is right, {to} is not"),
            ("other", "dotted: they differ, and both are wrong"),
        )
    )
    return f"<ul>{marks}</ul>"


def _swatch(colour: Sequence[int]) -> str:
    fill = "#{:02x}{:02x}{:02x}".format(*colour)
    return f'<svg class=swatch width=18 height=14 aria-hidden=true><rect width=18 height=14 fill="{fill}"/></svg>'


def _figure(
    picture: Picture, pictures: ReportImages, main: Difference | None, classes: Sequence[str], number: int
) -> str:
    truth, guesses = reduced(picture.truth), {label: reduced(held) for label, held in picture.predictions.items()}
    photo = reduced(picture.image)
    height, width = truth.shape
    panels = [_panel("image", photograph(photo), width, height, f"Photograph {short(picture.name)}")]
    panels.append(_map_panel("truth", truth, pictures, picture.name))
    panels += [_map_panel(label, guess, pictures, picture.name) for label, guess in guesses.items()]
    pair = pair_of(main, list(guesses))
    if pair is not None:
        marked = disagreement(photo, truth, guesses[pair[0]], guesses[pair[1]])
        title = f"{name(pair[0])} ≠ {name(pair[1])}"
        alt = f"Where {short(pair[0])} and {short(pair[1])} disagree"
        panels.append(_panel(title, photograph(marked), width, height, alt, kind="differs"))
    palette = _colours(classes, pictures)
    return (
        f'<figure class=picture data-classes="{palette}"><figcaption><b>{name(picture.name)}</b>{_why(picture, main)}'
        f"</figcaption><div class=maps>{''.join(panels)}</div>{_wipe(list(guesses), pair, width, height, number)}"
        "<p class=readout role=status>&#8203;</p></figure>"
    )


def _why(picture: Picture, main: Difference | None) -> str:
    value = picture.choice.difference
    if value is None or main is None:
        return ""
    return f" {name(main.to)} − {name(main.base)}: <b>{points(value)}</b> points of mean IoU in this image"


def _colours(classes: Sequence[str], pictures: ReportImages) -> str:
    """For the reader's line: `rrggbb name`, a line each."""
    lines = [
        escaped("{:02x}{:02x}{:02x} ".format(*colour) + short(kind, 40))
        for colour, kind in zip(full_palette(pictures.palette).tolist(), classes, strict=False)
    ]
    return "&#10;".join(lines)


def _panel(
    title: str, source: str, width: int, height: int, alt: str, *, kind: str = "photo", over: str = "", label: str = ""
) -> str:
    data = f' data-label="{escaped(label)}"' if label else ""
    return (
        f'<figure class="panel {kind}"{data}><figcaption>{title}</figcaption><div class=frame>'
        f'<img src="{source}" width={width} height={height} alt="{escaped(alt)}">{over}</div></figure>'
    )


def _map_panel(label: str, classes: Image, pictures: ReportImages, picture: str) -> str:
    height, width = classes.shape
    size = max(9, round(width / 20))
    numbers = "".join(
        f'<text x="{x}" y="{y}" class="{"on-dark" if dark else "on-light"}">{k}</text>'
        for k, x, y, dark in numbered(classes, pictures.palette)
    )
    over = f'<svg class=numbers viewBox="0 0 {width} {height}" font-size="{size}" aria-hidden=true>{numbers}</svg>'
    alt = f"{short(label)}: classes of {short(picture)}"
    shown = "truth" if label == "truth" else name(label)
    return _panel(
        shown, class_map(classes, pictures.palette), width, height, alt, kind="map", over=over, label=short(label)
    )


def _wipe(labels: Sequence[str], pair: tuple[str, str] | None, width: int, height: int, number: int) -> str:
    """Two maps on top of each other; the page's script gives them their pictures. Hidden where it does not run."""
    if pair is None:
        return ""
    chosen = [("left", pair[0]), ("right", pair[1])]
    selects = "".join(
        f'<label for="{side}-{number}">{side} <select id="{side}-{number}" class={side}>{_options(labels, default)}'
        "</select></label>"
        for side, default in chosen
    )
    return (
        f"<div class=wipe hidden><div class=choose>{selects}</div><div class=frame>"
        f'<img class=under width={width} height={height} alt=""><img class=over width={width} height={height} alt="">'
        "<i class=handle></i><input type=range min=0 max=100 step=1 value=50 "
        f'aria-label="Where the left prediction of {number + 1} ends and the right one begins, %"></div></div>'
    )


def _options(labels: Sequence[str], default: str) -> str:
    every = [("", "truth"), *abbreviate_labels(labels, 22).items()]
    return "".join(
        f'<option value="{place}"{" selected" if label == default else ""}>{escaped(shown)}</option>'
        for place, (label, shown) in enumerate(every)
    )
