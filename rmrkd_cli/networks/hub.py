"""Files of a model on the Hugging Face hub, from its cache or downloaded. No code of a repository is run."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rmrkd_cli.errors import RmrkdError, summarize_error

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_name(name: str) -> bool:
    """Return whether a name has the form `owner/model`."""
    return _NAME.fullmatch(name) is not None


def fetch_hub_file(name: str, *files: str, hint: str, revision: str | None = None) -> Path:
    """Return the first of these files that a model on the hub has.

    Args:
        name: `owner/model`.
        files: Names of files of the model, the preferred one first.
        hint: What else the user can do, if the model cannot be fetched.
        revision: Commit; None: the newest.

    Raises:
        RmrkdError: The hub cannot be reached and the file is not in the cache, or the model does not exist.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    for file in files:
        try:
            with _quiet():
                return Path(hf_hub_download(name, file, revision=revision))
        except LocalEntryNotFoundError as error:
            raise RmrkdError(
                f"`{name}` cannot be downloaded: the Hugging Face hub does not answer, and its cache has no `{file}`",
                f"check the connection; or {hint}",
            ) from error
        except EntryNotFoundError:
            continue
        except RepositoryNotFoundError as error:
            raise RmrkdError(f"the Hugging Face hub has no public model `{name}`", hint) from error
        except Exception as error:  # the client raises errors of its transport too
            raise RmrkdError(f"`{name}` cannot be downloaded: {summarize_error(error)[:300]}", hint) from error
    raise RmrkdError(f"the model `{name}` on the Hugging Face hub has no file {' or '.join(files)}", hint)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the client's notes about attempts that failed."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
