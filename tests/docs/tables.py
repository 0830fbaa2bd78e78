"""The tables of the docs that are made from the code. `python -m tests.docs.tables` writes them into the pages."""

from __future__ import annotations

import re
from typing import Any

import yaml

from rmrkd_cli.presets.loader import to_yaml
from rmrkd_cli.presets.methods import load_method, method_names
from rmrkd_cli.presets.schema import Preset
from tests.docs.pages import ROOT

# A minimal preset of a custom data set, in which every key of `data` has a meaning.
CUSTOM: dict[str, Any] = {
    "name": "mine",
    "dataset": "custom",
    "data": {
        "root": "data/mine",
        "classes": ["a", "b"],
        "train_scale": [64, 64],
        "train": {"images": "a", "labels": "b"},
        "val": {"images": "c", "labels": "d"},
        "unlabelled": {"images": "e"},
    },
    "teacher": {"config": "a.py"},
    "student": {"config": "b.py"},
}


def loss_types() -> list[str]:
    """Return the types of losses: one file each."""
    files = (ROOT / "rmrkd_cli/losses").glob("[!_]*.py")
    return sorted(path.stem for path in files)


def loss_defaults(kind: str) -> dict[str, Any]:
    """Return every key of a loss with its default, as `rmrkd presets` prints it."""
    preset = Preset.model_validate({**CUSTOM, "losses": {"loss": {"type": kind}}})
    loss: dict[str, Any] = yaml.safe_load(to_yaml(preset))["losses"]["loss"]
    return loss


def losses_table() -> str:
    rows = ["| type | stage | options with their defaults |", "|---|---|---|"]
    for kind in loss_types():
        loss = loss_defaults(kind)
        named = [f"`{key}: {_yaml(value)}`" for key, value in loss.items() if key not in ("type", "stage", "weight")]
        rows.append(f"| `{kind}` | `{_yaml(loss['stage'])}` | {', '.join(named)} |")
    return "\n".join(row.replace(" |  |", " | |") for row in rows)


def methods_table() -> str:
    """Return the table that `rmrkd methods` prints, as Markdown."""
    rows = ["| `--method` | method | acts on | step |", "|---|---|---|---|"]
    for name in method_names():
        recipe = load_method(name)
        stages = [loss.stage if isinstance(loss.stage, list) else [loss.stage] for loss in recipe.losses.values()]
        places = [" + ".join(f"stage {at}" if isinstance(at, int) else str(at) for at in stage) for stage in stages]
        cost = f"{recipe.about.cost:.2f}" if recipe.about is not None and recipe.about.cost is not None else "–"
        rows.append(f"| `{name}` | {recipe.title} | {', '.join(dict.fromkeys(places))} | {cost} |")
    return "\n".join(rows)


def _yaml(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
    return re.sub(r"^([\d.]+)e([+-]\d+)$", lambda found: f"{float(found[0]):g}", text)


TABLES = {"docs/preset-keys.md": ("losses", losses_table), "docs/methods.md": ("methods", methods_table)}


def section(name: str, table: str) -> str:
    return f"<!-- table of {name}, written by `python -m tests.docs.tables` -->\n\n{table}\n\n<!-- end -->"


def write() -> None:
    """Replace the tables in the pages."""
    for page, (name, table) in TABLES.items():
        path = ROOT / page
        pattern = rf"<!-- table of {name},.*?<!-- end -->"
        parts = re.split(pattern, path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert len(parts) == 2, f"{page} has no place for its table"
        path.write_text(section(name, table()).join(parts), encoding="utf-8")


if __name__ == "__main__":
    write()
