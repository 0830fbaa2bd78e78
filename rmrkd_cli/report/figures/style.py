"""Figures of matplotlib without its global state, drawn whatever a user's or a folder's matplotlibrc says."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.storage.atomic import save_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
_DPI = 200
_LARGEST = 6000  # pixels a side
_STYLE: Any = {
    "font.family": ["sans-serif"], "font.sans-serif": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.edgecolor": "#333333",
    "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.grid": False, "grid.color": "#dddddd",
    "grid.linewidth": 0.6, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "hatch.linewidth": 1.0,
    "text.usetex": False, "text.parse_math": False, "axes.unicode_minus": True, "svg.hashsalt": "rmrkd",
    "pdf.fonttype": 42, "axes.formatter.use_mathtext": False,
}  # fmt: skip


@contextmanager
def drawing() -> Iterator[None]:
    """matplotlib's own defaults and the style above; a name in letters that its font has not is no warning."""
    import logging

    import matplotlib

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    plain: Any = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    with matplotlib.rc_context(plain), matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def new_figure(width: float, height: float, *, plain: bool = False) -> Figure:
    """A figure of so many inches.

    Args:
        plain: Whoever draws places everything.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=None if plain else "constrained", facecolor="white")


def save(figure: Figure, path: Path) -> None:
    """Writes the file whole or not at all, as what its suffix says.

    Raises:
        RunError: When it cannot be written.
    """
    kind = path.suffix[1:].lower()
    dpi = min(_DPI, _LARGEST / max(figure.get_size_inches()))
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    save_atomic(lambda partial: figure.savefig(partial, format=kind, dpi=dpi, metadata=metadata), path)
