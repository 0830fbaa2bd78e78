"""`rmrkd predict`"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmrkd_cli.cli.evaluation_options import parsed_scales
from rmrkd_cli.cli.options import Device, DeviceOption, check_inputs, dataset_name, image_scale
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.installation.mmseg import require_mmseg
from rmrkd_cli.storage.output_paths import check_free_folder

if TYPE_CHECKING:
    from rmrkd_cli.prediction.results import PredictionResults


class Picture(str, Enum):
    png = "png"
    jpg = "jpg"
    none = "none"


_SHOWN = 12  # classes


def predict_command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A student's file, or any other.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images, videos, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for what is written.")],
    scale: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Fit images into this size. (default: as when it was evaluated)"),
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirrored image.")] = False,
    scales: Annotated[str, typer.Option(metavar="LIST", help="Average over these scales, as 0.5,1.0,1.5.")] = "1.0",
    overlay: Annotated[Picture, typer.Option(help="How the coloured images are written.")] = Picture.png,
    opacity: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of the colours over the image.")] = 0.5,
    legend: Annotated[bool, typer.Option(help="Draw a legend of the classes below each overlay.")] = True,
    frames: Annotated[bool, typer.Option("--frames", help="Also write index PNGs of a video's frames.")] = False,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Whose network it is, where the file does not say.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose class names, colours and size of images to take.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=64, metavar="N", help="Processes that read images ahead.")] = 2,
    device: DeviceOption = Device.auto,
) -> None:
    """Segment images and videos: class maps, overlays with a legend, and pixel shares."""
    from rmrkd_cli.presets.loader import load_preset

    averaged, name, size = parsed_scales(scales), dataset_name(dataset), image_scale(scale)
    check_free_folder(out)
    check_inputs(inputs)
    if not checkpoint.is_file():
        why = "is a folder" if checkpoint.is_dir() else "does not exist"
        raise RmrkdError(f"checkpoint `{checkpoint}` {why}", "name a .pth or .safetensors file")
    own = load_preset(preset) if preset is not None else None
    require_mmseg()
    from rmrkd_cli.distributed.device import choose_device
    from rmrkd_cli.prediction.run import PredictJob, run_predictions

    kind, _ = choose_device(device.value, None)
    job = PredictJob(
        checkpoint=checkpoint, inputs=tuple(inputs), out=out, preset=own, dataset=name, scale=size, scales=averaged,
        flip=flip, device=kind, workers=workers, overlay=overlay.value, opacity=opacity, legend=legend, frames=frames,
    )  # fmt: skip
    _show(run_predictions(job), out)


def _show(results: PredictionResults, out: Path) -> None:
    from rmrkd_cli.prediction.legend import format_share
    from rmrkd_cli.prediction.results import mean_shares
    from rmrkd_cli.terminal import console

    shares = mean_shares(results)
    if shares:
        rows = [[name, format_share(share)] for name, share in shares[:_SHOWN]]
        more = f"{len(shares) - _SHOWN} classes more in predictions.csv" if len(shares) > _SHOWN else ""
        console.show_table("Mean share of pixels", ["class", "share"], rows, [more] if more else [])
    console.write_line(f"{out}: {len(results.entries)} of {len(results.entries) + len(results.unread)} inputs")
    if results.unread:
        from rmrkd_cli.prediction.results import list_unread

        count = len(results.unread)
        raise RunError(
            f"{count} input(s) could not be read completely; the others are in `{out}`:\n{list_unread(results)}"
        )
