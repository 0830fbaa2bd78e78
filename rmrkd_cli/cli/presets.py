"""`rmrkd presets`"""

from __future__ import annotations

from typing import Annotated

import typer


def presets_command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME|FILE", help="Show this preset with every default.", show_default="list all"),
    ] = None,
) -> None:
    """List the presets, or show one with every default.

    Examples:
        rmrkd presets
        rmrkd presets psp101-psp18-city
    """
    from rmrkd_cli.presets.loader import load_preset, preset_names, to_yaml
    from rmrkd_cli.presets.methods import method_names
    from rmrkd_cli.terminal import console

    if name is not None:
        preset = load_preset(name)
        console.print_text(to_yaml(preset, f"rmrkd train --preset {name}"))
        return
    rows = []
    for known in preset_names():
        preset = load_preset(known)
        paper = preset.paper
        figures = [f"{paper.baseline:.2f}", f"{paper.distilled:.2f}"] if paper else ["–", "–"]
        rows.append([known, preset.title, preset.dataset, *figures])
    notes = [
        "baseline and distilled: mIoU in the paper (Zheng et al., Pattern Recognition 161, 2025)",
        "",
        f"methods for --method (details: rmrkd methods): {', '.join(method_names())}",
    ]
    console.print_table("Presets", ["name", "pair", "data set", "baseline", "distilled"], rows, notes)
