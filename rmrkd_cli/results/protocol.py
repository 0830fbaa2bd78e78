"""The evaluation protocol of a result in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmrkd_cli.terminal.text import plural, shorten


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """Return data set, images, inference mode, image scale, scales and flip; not escaped for HTML."""
    scales = ", ".join(f"{scale:g}" for scale in protocol["scales"])
    width, height = protocol["scale"]
    mode = f"{shorten(protocol['mode'])} image"
    if protocol.get("window"):
        window, stride = (f"{size[0]}x{size[1]}" for size in (protocol["window"], protocol["stride"]))
        mode = f"sliding window of {window} with stride {stride} (height x width) over each image"
    white = protocol.get("max_value")  # not validated with the record
    depth = f", white at {white:g}" if isinstance(white, (int, float)) else ""
    return (
        f"{shorten(protocol['dataset'])} {shorten(protocol['split'])}, {plural(protocol['images'], 'image')} "
        f"({shorten(protocol['fingerprint'])}), {mode} fitted into {width}x{height}, scales {scales}, "
        f"flip {'on' if protocol['flip'] else 'off'}{depth}"
    )
