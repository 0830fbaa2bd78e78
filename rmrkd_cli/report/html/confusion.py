"""Confusion matrices: rows of truth as shares, figures in the cells of small ones, a reader's line for all."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np

from rmrkd_cli.comparison.types import Comparison, Group
from rmrkd_cli.report.figures.counts import MOST_NUMBERED, Matrix, has_matrix, largest, shares
from rmrkd_cli.report.html.images import data_uri
from rmrkd_cli.terminal.text import escaped, name, percent, short

_MOST_READ = 256  # classes, up to which the page holds the counts
LEVELS = 20
_FEW = 12  # classes, up to which matrices stand side by side


def confusion_section(comparison: Comparison) -> str:
    figures = "".join(_figure(group, comparison.classes) for group in comparison.groups if has_matrix(group))
    lost = [name(group.label) for group in comparison.groups if not has_matrix(group)]
    missing = f"<p class=missing>No confusion matrix of {', '.join(lost)}: its results hold none.</p>" if lost else ""
    few = "few" if len(comparison.classes) <= _FEW else "many"
    return f"<div class='matrices {few}'>{figures}</div>{missing}"


def _figure(group: Group, classes: Sequence[str]) -> str:
    assert group.matrix is not None
    part = shares(group.matrix)
    small = len(classes) <= MOST_NUMBERED
    drawn = _table(group, part, classes) if small else _heat(group, part, classes)
    return (
        f"<figure class=matrix><figcaption><b>{name(group.label)}:</b> of each true class (rows), the share of pixels "
        f"predicted as each class (columns), %. Shade: square root of the share.</figcaption>"
        f"{drawn}<p class=readout role=status>&#8203;</p>{_list(group, part, classes)}</figure>"
    )


def _table(group: Group, part: Matrix, classes: Sequence[str]) -> str:
    assert group.matrix is not None
    head = "".join(f"<th scope=col><span>{escaped(short(kind, 18))}</span></th>" for kind in classes)
    rows = []
    for truth, (kind, counts) in enumerate(zip(classes, group.matrix, strict=True)):
        cells = "".join(
            _cell(float(part[truth, guess]), pixels, truth == guess, truth + guess == 0)
            for guess, pixels in enumerate(counts)
        )
        rows.append(f"<tr><th scope=row>{escaped(short(kind, 18))}</th>{cells}</tr>")
    caption = f"Confusion matrix of {short(group.label)}; arrow keys move from cell to cell"
    return (
        f'<div class="wide cells" role=region aria-label="{escaped(caption)}"><table class=confusion><caption>'
        f"{escaped(caption)}</caption><thead><tr><td class=corner>truth \\ predicted</td>{head}</tr></thead><tbody>"
        f"{''.join(rows)}</tbody></table></div>"
    )


def _cell(share: float, pixels: int, right: bool, first: bool) -> str:
    focus = 0 if first else -1
    if np.isnan(share):
        return f"<td tabindex={focus} data-n=0>–</td>"
    shown = "" if pixels == 0 else "·" if share < 0.005 else f"{100 * share:.0f}"
    kind = f"s{round(math.sqrt(share) * LEVELS)}" + (" right" if right else "")
    return f'<td tabindex={focus} class="{kind}" data-n={pixels}>{shown}</td>'


def _heat(group: Group, part: Matrix, classes: Sequence[str]) -> str:
    """A picture, one pixel a cell, and where the page can hold them its counts for the reader's line."""
    readable = len(classes) <= _MOST_READ
    assert group.matrix is not None
    counts = ";".join(",".join(str(n) if n else "" for n in row) for row in group.matrix) if readable else ""
    names = "\n".join(short(kind, 40) for kind in classes) if readable else ""
    label = f"Confusion matrix of {short(group.label)}, {len(classes)} classes; arrow keys move over it"
    reading = f'data-counts="{counts}" data-names="{escaped_lines(names)}" tabindex=0' if readable else ""
    return (
        "<p class=axes aria-hidden=true><span>truth ↓</span> <span>predicted →</span></p>"
        f'<div class=heat role=group aria-label="{escaped(label)}" {reading}><img alt="{escaped(label)}" '
        f'src="{data_uri(heat_png(part), "image/png")}"><i class=cross hidden></i></div>'
    )


def escaped_lines(text: str) -> str:
    return "&#10;".join(escaped(line) for line in text.split("\n"))


def heat_png(part: Matrix) -> bytes:
    """One colour, the more opaque the larger the share, so that it shows on light and dark ground."""
    from PIL import Image

    picture = np.zeros((*part.shape, 4), np.uint8)
    picture[..., :3] = (0x2B, 0x7F, 0xC4)
    picture[..., 3] = np.rint(255 * np.sqrt(np.nan_to_num(part)))
    stream = io.BytesIO()
    Image.fromarray(picture, "RGBA").save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _list(group: Group, part: Matrix, classes: Sequence[str]) -> str:
    assert group.matrix is not None
    lines = "".join(
        f"<li>{name(classes[truth])} → {name(classes[guess])}: {percent(float(part[truth, guess]), 1)} % "
        f"<small>({group.matrix[truth][guess]:,} pixels)</small></li>"
        for truth, guess in largest(group.matrix)
    )
    if not lines:
        return ""
    return (
        "<aside><h3>Largest confusions, by pixels</h3><p class=small>true class → predicted as, of the true class</p>"
        f"<ol>{lines}</ol></aside>"
    )
