"""Text of messages about trackers, without secrets."""

from __future__ import annotations

import os
import re

from rmrkd_cli.errors import summarize_error
from rmrkd_cli.terminal.text import shorten

_SECRETS = (
    "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "DATABRICKS_TOKEN", "AWS_SECRET_ACCESS_KEY",
)  # fmt: skip
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]*@")
_HIDDEN = "…"
_MAX_LENGTH = 300  # characters of an error


def hide_secrets(text: str) -> str:
    """Replace the values of secret environment variables, and user and password in addresses."""
    for name in _SECRETS:
        if value := os.environ.get(name):
            text = text.replace(value, _HIDDEN)
    return _CREDENTIALS.sub(f"{_HIDDEN}@", text)


def describe_error(error: BaseException) -> str:
    """Return the first line of an error of a tracker, shortened and without secrets."""
    return shorten(hide_secrets(summarize_error(error)), _MAX_LENGTH)
