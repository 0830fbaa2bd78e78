"""`rmrkd presets`"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from rmrkd_cli.cli.completion import complete_preset
from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from rmrkd_cli.presets.schema import Preset


def presets_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE",
            help="Show this preset with every default.",
            show_default="list all",
            autocompletion=complete_preset,
        ),
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
        if name in preset_names():  # the output for a file is that of --print-config
            console.print_text("\n".join(_describe_dataset(preset)))
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


def _describe_dataset(preset: Preset) -> Iterator[str]:
    """Yield comments with what the data set gives: the keys of `data` that only a preset of a custom one has."""
    from rmrkd_cli.data.datasets import dataset_info

    info = dataset_info(preset)
    yield f"# The data set `{info.name}` gives what `data` does not name:"
    try:
        yield f"#   classes: [{', '.join(info.classes)}]"
    except RmrkdError:
        yield "#   classes: those of mmsegmentation, which is not installed"
    yield f"#   root: {info.root}"
    yield f"#   train_scale: [{info.scale[0]}, {info.scale[1]}]"
    yield f"#   eval_scale: [{info.eval_scale[0]}, {info.eval_scale[1]}]"
    yield f"#   image_suffix: {info.image_suffix}"
    yield f"#   label_suffix: {info.label_suffix}"
    ignored = [*info.ignore_labels, *([0] if info.reduce_zero_label else [])]
    yield f"#   ignore_labels: {sorted(set(ignored))}" + (", classes count from 1" if info.reduce_zero_label else "")
    yield "# `rmrkd train --preset FILE` reads this output; docs/preset-keys.md explains every key."
