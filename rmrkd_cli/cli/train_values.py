"""The options of `rmrkd train` as plain values."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum

from rmrkd_cli.api.train_settings import MAX_SEED, TrainSettings
from rmrkd_cli.cli.train_options import TrainOptions
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.text import shorten_value


def train_settings(options: TrainOptions) -> TrainSettings:
    """Return the options without those that train nothing, as `rmrkd_cli.train` takes them.

    Raises:
        RmrkdError: If `--seeds` names no integers.
    """
    values = {field.name: getattr(options, field.name) for field in fields(TrainSettings)}
    plain = {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
    lists = {"seeds": parse_seeds(options.seeds), "code": options.code or (), "settings": options.settings or ()}
    return TrainSettings(**{**plain, **lists})


def parse_seeds(text: str | None) -> list[int] | None:
    """Return the seeds of `0,1,2`, in this order, or None for None.

    Raises:
        RmrkdError: If they are not integers.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    wrong = next((part for part in parts if not (part.isascii() and part.isdigit() and len(part) <= 10)), None)
    if wrong is not None:
        raise RmrkdError(
            f"`--seeds {shorten_value(text)}`: `{shorten_value(wrong)}` is not an integer from 0 to {MAX_SEED}",
            "--seeds 0,1,2",
        )
    return [int(part) for part in parts]
