"""Build a network, to check that mmsegmentation was installed correctly."""

from __future__ import annotations

from rmrkd_cli.errors import RunError
from rmrkd_cli.installation.mmseg import SETUP_COMMAND


def build_demo_student() -> int:
    """Build the student of the preset `demo` and return its number of parameters.

    Raises:
        RunError: The network cannot be built; the message has the first line of the cause.
    """
    from rmrkd_cli.data.datasets import dataset_info
    from rmrkd_cli.errors import summarize_error
    from rmrkd_cli.networks.libraries import build_network, network_config
    from rmrkd_cli.presets.loader import load_preset

    preset = load_preset("demo")
    try:
        config = network_config(preset.student, dataset_info(preset).num_classes)
        network = build_network(config, device="cpu")
    except Exception as error:  # mmsegmentation checks versions with `assert`, and a library can fail in any way
        message = f"mmsegmentation is installed, but cannot build a network: {summarize_error(error)}"
        raise RunError(message, f"{SETUP_COMMAND} --reinstall; rmrkd doctor checks the installation") from error
    return sum(parameter.numel() for parameter in network.parameters())
