"""The style of every figure. Draws with matplotlib's object interface, so a user's matplotlibrc changes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.storage.atomic import save_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONTS = ("Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")
# The report page replaces these colours by variables of its light and its dark scheme (`html.svg`).
INK, SOFT, LINE, PAPER = "#1b1d21", "#565c66", "#d9dce1", "#ffffff"
CELL_TEXT = "#010101"  # not pure black, which matplotlib leaves out of an SVG
_DPI = 200
_MAX_SIDE = 6000  # pixels
_STYLE: Any = {
    "font.family": ["sans-serif"], "font.sans-serif": list(FONTS), "font.size": 9,
    "axes.titlesize": 9.5, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7,
    "axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK, "axes.titlecolor": INK,
    "xtick.color": SOFT, "ytick.color": SOFT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.grid": False, "grid.color": LINE, "grid.linewidth": 0.6, "xtick.major.width": 0.7, "ytick.major.width": 0.7,
    "hatch.linewidth": 1.0, "text.usetex": False, "text.parse_math": False, "axes.unicode_minus": True,
    "svg.hashsalt": "rmrkd", "pdf.fonttype": 42, "axes.formatter.use_mathtext": False,
}  # fmt: skip


@contextmanager
def figure_style(**changes: Any) -> Iterator[None]:
    """Apply matplotlib's defaults and the style above, and silence warnings about characters missing in a font.

    Args:
        changes: Further settings, with `_` for the dot of their names: `svg_fonttype="none"`.
    """
    import logging

    import matplotlib

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    defaults: Any = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    style = _STYLE | {key.replace("_", ".", 1): value for key, value in changes.items()}
    with matplotlib.rc_context(defaults), matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def new_figure(width: float, height: float, *, layout: Any = "constrained") -> Figure:
    """Return an empty figure.

    Args:
        width, height: In inches.
        layout: None where the caller places all axes.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout, facecolor=PAPER)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as the format that the file's suffix names: PNG, SVG or PDF.

    Raises:
        RunError: When the file cannot be written.
    """
    suffix = path.suffix[1:].lower()
    dpi = min(_DPI, _MAX_SIDE / max(figure.get_size_inches()))
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)  # the same bytes on every day
    save_atomic(lambda partial: figure.savefig(partial, format=suffix, dpi=dpi, metadata=metadata), path)
