"""Write the measured cost of a step into each recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from rmrkd_cli.presets.methods import preset_dir
from rmrkd_cli.storage.atomic import write_text

_COST = re.compile(r"^  cost:.*\n", re.MULTILINE)
_BEFORE = re.compile(r"^  source:", re.MULTILINE)


def format_ratio(ratio: float) -> str:
    """Return a ratio as the report and the recipes show it."""
    return f"{ratio:.2f}"


def write_costs(ratios: Mapping[str, float], folder: Path | None = None) -> list[Path]:
    """Write the ratio to the baseline's step into each method's recipe; return the changed files.

    Raises:
        ValueError: A recipe does not have exactly one line `source:`; the cost is written before it.
    """
    changed = []
    for name, ratio in ratios.items():
        path = (folder or preset_dir() / "methods") / f"{name}.yaml"
        before = path.read_text(encoding="utf-8")
        bare = _COST.sub("", before)
        if len(_BEFORE.findall(bare)) != 1:
            raise ValueError(f"{path} has not one line `source:`")
        after = _BEFORE.sub(f"  cost: {format_ratio(ratio)}\n  source:", bare)
        if after != before:
            write_text(after, path)
            changed.append(path)
    return changed
