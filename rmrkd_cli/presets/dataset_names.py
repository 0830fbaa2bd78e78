"""The names of the built-in data sets, and their aliases."""

from __future__ import annotations

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.terminal.text import shorten_value


def dataset_name(text: str | None) -> str | None:
    """Return the name of a data set from its name or its alias.

    Raises:
        RmrkdError: If there is no such data set; it names the most similar one.
    """
    from rmrkd_cli.presets.schema import DATASET_ALIASES, DATASETS

    if text is None:
        return None
    name = DATASET_ALIASES.get(text, text)
    if name not in DATASETS:
        raise RmrkdError(
            f"unknown data set `{shorten_value(text)}`, {did_you_mean(text, [*DATASETS, *DATASET_ALIASES])}",
            "rmrkd presets",
        )
    return name
