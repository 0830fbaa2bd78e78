"""URLs of the ImageNet weights that mmsegmentation's configs name."""

from __future__ import annotations

import json
from pathlib import Path

from rmrkd_cli.errors import RmrkdError, did_you_mean


def zoo_url(name: str) -> str:
    """Return the URL of a zoo name such as `open-mmlab://resnet18_v1c`, from the tables in mmcv.

    Raises:
        RmrkdError: mmcv has no such name.
    """
    import mmcv

    tables = {"open-mmlab": "open_mmlab.json", "mmcls": "mmcls.json"}
    scheme, _, key = name.partition("://")
    if scheme not in tables:
        raise RmrkdError(f"`{name}` is not a zoo name ({', '.join(f'{s}://…' for s in tables)})")
    table = json.loads((Path(mmcv.__file__).parent / "model_zoo" / tables[scheme]).read_text())
    if key not in table:
        raise RmrkdError(f"mmcv's zoo has no `{key}`; {did_you_mean(key, table)}")
    return str(table[key])
