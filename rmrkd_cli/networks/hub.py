"""Files of a model on the Hugging Face hub, from its cache or downloaded. No code of a repository is run."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from rmrkd_cli.errors import RmrkdError, summarize_error

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_downloads_allowed = ContextVar("downloads_allowed", default=True)


class NotDownloadedError(RmrkdError):
    """A file is not in the hub's cache, where nothing may be downloaded."""


@contextmanager
def no_downloads() -> Iterator[None]:
    """Let `fetch_hub_file` raise NotDownloadedError for a file that is not in the cache."""
    token = _downloads_allowed.set(False)
    try:
        yield
    finally:
        _downloads_allowed.reset(token)


def is_hub_name(name: str) -> bool:
    """Return whether a name has the form `owner/model`."""
    return _NAME.fullmatch(name) is not None


def cached_hub_file(name: str, *files: str) -> Path | None:
    """Return the first of these files that is in the hub's cache on this machine; None if none is.

    Args:
        name: `owner/model`, or `owner/model@commit`.
        files: Names of files of the model, the preferred one first.
    """
    from huggingface_hub import try_to_load_from_cache

    model, _, revision = name.partition("@")
    found = (try_to_load_from_cache(model, file, revision=revision or None) for file in files)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def hub_folder(name: str) -> Path:
    """Return the folder of the hub's cache in which the files of a model are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{name.partition('@')[0].replace('/', '--')}"


def fetch_hub_file(name: str, *files: str, hint: str) -> Path:
    """Return the first of these files that a model on the hub has; one in the cache is used without asking the hub.

    Args:
        name: `owner/model`, or `owner/model@commit`; without a commit the newest is downloaded.
        files: Names of files of the model, the preferred one first.
        hint: What else the user can do, if the model cannot be fetched.

    Raises:
        NotDownloadedError: The file is not in the cache, inside `no_downloads`.
        RmrkdError: The hub cannot be reached and the file is not in the cache, or the model does not exist.
    """
    if (cached := cached_hub_file(name, *files)) is not None:
        return cached
    if not _downloads_allowed.get():
        raise NotDownloadedError(
            f"`{name}` on the Hugging Face hub is not on this machine: its {' or '.join(files)} would be downloaded to "
            f"`{hub_folder(name)}`",
            hint,
        )
    return _download(name, files, hint)


def _download(name: str, files: tuple[str, ...], hint: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    model, _, revision = name.partition("@")
    for file in files:
        try:
            with _quiet():
                return Path(hf_hub_download(model, file, revision=revision or None))
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
