"""Messages for network files that are unsafe, damaged or missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rmrkd_cli.checkpoints.safety.placeholders import MalformedFileError, UnsafeFileError
from rmrkd_cli.errors import RmrkdError


@contextmanager
def describe_file_errors(file: str) -> Iterator[None]:
    """Turn the errors of a safety check in this block into errors for the user.

    Raises:
        RmrkdError: The file is unsafe, damaged, or does not exist.
    """
    if not Path(file).is_file():
        raise RmrkdError(f"`{file}` does not exist or is not a file", "name an ONNX or TorchScript file")
    try:
        yield
    except UnsafeFileError as error:
        raise RmrkdError(
            f"`{file}` was not loaded: {error}", "if it is yours, export it again as one self-contained ONNX file"
        ) from error
    except (MalformedFileError, OSError) as error:
        raise RmrkdError(f"`{file}` cannot be read: {error}", "copy or download it again") from error
