"""A folder as the Hugging Face hub has it: `model.safetensors`, and `config.json` with what a student's file says.

`config.json` is data of an unknown author, like the metadata of any checkpoint: it is read as JSON, checked by the
reader, and its config is parsed, never executed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.folder_contents import HUB_CONFIG, HUB_WEIGHTS
from rmrkd_cli.storage.regular_file import error_reason, read_regular

LIBRARY = "rmrkd"
FORMAT = 1
_MAX_BYTES = 1 << 24  # of config.json


def read_hub_metadata(weights: Path) -> dict[str, Any] | None:
    """Return the metadata of a checkpoint from the config beside its weights; None if it is no folder of rmrkd.

    Args:
        weights: A safetensors file.

    Raises:
        RmrkdError: The config is damaged, or of a later rmrkd.
    """
    path = weights.with_name(HUB_CONFIG)
    if weights.name != HUB_WEIGHTS or not path.is_file():
        return None
    try:
        config = json.loads(read_regular(path, _MAX_BYTES).decode("utf-8"))
    except OSError as error:
        raise RmrkdError(f"`{path}` cannot be read: {error_reason(error)}", "download the folder again") from error
    except (ValueError, RecursionError) as error:
        raise RmrkdError(f"`{path}` is damaged: it is no JSON", "download the folder again") from error
    if not isinstance(config, dict) or config.get("library_name") != LIBRARY:
        return None
    if config.get("format") != FORMAT:
        raise RmrkdError(
            f"`{path}` has the format {str(config.get('format'))[:20]}, this rmrkd reads {FORMAT}", "update rmrkd"
        )
    meta = config.get("checkpoint")
    if not isinstance(meta, dict):
        raise RmrkdError(f"`{path}` is damaged: it has no `checkpoint`", "download the folder again")
    return meta
