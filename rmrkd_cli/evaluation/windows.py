"""Choose the sliding window of an inference: as the command says, else as the checkpoint's config, else its crop."""

from __future__ import annotations

from collections.abc import Callable

from rmrkd_cli.checkpoints.reader import Checkpoint
from rmrkd_cli.checkpoints.safety.mmseg_config import parse_config_text
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.checkpoint_network import CheckpointNetwork
from rmrkd_cli.evaluation.inference_modes import Window

MAX_WINDOW_SIDE = 16_384

Size = tuple[int, int]


def choose_window(
    model: CheckpointNetwork, mode: str, crop: Size | None, stride: Size | None, log: Callable[[str], None]
) -> Window | None:
    """Return the sliding window: the given one, else the config's in the checkpoint, else the training crop.

    Args:
        mode: "whole" gives None, "slide" a window.
        crop, stride: (height, width) in pixels; None: as in the checkpoint, else two thirds of the crop.
        log: Gets a note where the checkpoint's config slides and `mode` does not.

    Raises:
        RmrkdError: The size of the window is unknown, or the stride is larger than the window.
    """
    configured = _window_of_config(model.checkpoint)
    if mode == "whole":
        if configured is not None:
            log(f"the config in `{model.checkpoint.path}` uses a sliding window: --mode slide does the same")
        return None
    if crop is None and configured is not None:
        crop, stride = configured.crop, stride or configured.stride
    elif crop is None and model.preset is not None:
        crop = model.preset.schedule.crop
    if crop is None:
        raise RmrkdError(
            f"`{model.checkpoint.path}` does not contain its training crop", "set the window with --crop HEIGHTxWIDTH"
        )
    window = Window(crop, stride or (round(2 * crop[0] / 3) or 1, round(2 * crop[1] / 3) or 1))
    if any(step > side for step, side in zip(window.stride, window.crop, strict=True)):
        steps, sides = (f"{height}x{width}" for height, width in (window.stride, window.crop))
        raise RmrkdError(
            f"--stride {steps} is larger than the window of {sides}: pixels between windows would be skipped",
            "choose a smaller --stride or a larger --crop",
        )
    return window


def _window_of_config(checkpoint: Checkpoint) -> Window | None:
    """Return the sliding window of the config in a checkpoint; None if there is none or it is unusable."""
    text = checkpoint.meta.get("config")
    if not isinstance(text, str):
        return None
    try:
        model = parse_config_text(text).get("model")
    except RmrkdError:
        return None
    test = model.get("test_cfg") if isinstance(model, dict) else None
    if not isinstance(test, dict) or test.get("mode") != "slide":
        return None
    crop, stride = test.get("crop_size"), test.get("stride")
    for pair in (crop, stride):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            return None
        if not all(type(side) is int and 1 <= side <= MAX_WINDOW_SIDE for side in pair):
            return None
    window = Window((crop[0], crop[1]), (stride[0], stride[1]))  # type: ignore[index]
    return window if all(map(int.__le__, window.stride, window.crop)) else None
