"""The error for weights that do not match their network, with the fix that fits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rmrkd_cli.checkpoints.foreign_networks import SUPPORTED, describe_network, is_foreign
from rmrkd_cli.checkpoints.network_state import fixing_line, prefix_of
from rmrkd_cli.errors import RmrkdError

_MIN_SHARE = 0.5  # of a network's tensors, below which loading the rest gives a random network


def mismatch_error(
    message: str,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    source: str,
    *,
    hint: str = "",
    partial_hint: str = "",
) -> RmrkdError:
    """Return the error of `reader.key_mismatch`.

    Args:
        message: The missing, unexpected and mismatched keys.
        own, state: The network's tensors and those of the file.
        source: The file.
        hint: What else to try.
        partial_hint: How to load only the matching tensors; it is left out where they are fewer than half.
    """
    matching = sum(key in state and state[key].shape == own[key].shape for key in own)
    if not matching and (prefix := prefix_of(own, state)):
        line = fixing_line(source, '["state_dict"]', prefix)
        return RmrkdError(f"{message}\n  its names have the prefix `{prefix}`", f"remove the prefix: {line}")
    if 2 * matching < len(own) and is_foreign(state) and not is_foreign(own):
        return RmrkdError(f"{message}\n  {describe_network(state)}", ". ".join(filter(None, (SUPPORTED, hint))))
    if not matching:
        first = next(iter(state), "")
        return RmrkdError(message, f"{hint}: no tensor matches, its first key is `{first}`" if hint else "")
    enough = matching >= _MIN_SHARE * len(own)
    return RmrkdError(message, ", or ".join(filter(None, (hint, partial_hint if enough else ""))))
