"""`rmrkd networks`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmrkd_cli.cli.command import option
from rmrkd_cli.cli.completion import complete_preset
from rmrkd_cli.cli.options import NETWORK, OUTPUT, Code, JsonOut, check_json_out, write_json
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.user_code import allow_files

if TYPE_CHECKING:
    from rmrkd_cli.data.datasets import DatasetInfo
    from rmrkd_cli.networks.listing import Listing
    from rmrkd_cli.presets.network_schema import Network

_CLASSES = 19  # of a network that is named without a preset
_UNKNOWN = "–"


def networks_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Show this network: a name of a library, a config of mmsegmentation, or FILE.py:function.",
            show_default="list the names",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        option(
            "--preset",
            NETWORK,
            "Show teacher and student of this preset.",
            metavar="NAME|FILE",
            autocompletion=complete_preset,
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        option(
            "--option", NETWORK, "Set an option of the network, such as encoder_name=resnet18; repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    code: Code = None,
    modules: Annotated[
        bool, option("--modules", OUTPUT, "List every module whose output is a map, for `maps` in a preset.")
    ] = False,
    json_out: JsonOut = None,
) -> None:  # fmt: skip
    """List the feature maps of a network: the module, channels and stride of each. No weights are downloaded.

    Examples:
        rmrkd networks Unet --option encoder_name=resnet18 --modules
        rmrkd networks --preset psp101-psp18-city
    """
    allow_files(code or ())
    check_json_out(json_out)
    if preset is not None and (name is not None or options):
        raise RmrkdError("--preset names the networks, and so does NAME with --option", "give one of them")
    if name is None and preset is None:
        _print_names(json_out)
        return
    networks, info = _chosen(name, preset, options or [])
    listings = _list(networks, info)
    if json_out is not None:
        write_json([_as_data(what, networks[what], listing) for what, listing in listings.items()], json_out)
    if json_out != "-":
        for what, listing in listings.items():
            _print_listing(_title(what, networks[what]), listing, modules=modules)


def _chosen(name: str | None, preset: str | None, options: list[str]) -> tuple[dict[str, Network], DatasetInfo | None]:
    """Return the networks by their role, or as `network`, and the data set of a preset."""
    if preset is None:
        from rmrkd_cli.networks.listing import find_network

        return {"network": find_network(str(name), _parse_options(options))}, None
    from rmrkd_cli.data.datasets import dataset_info
    from rmrkd_cli.presets.loader import load_preset

    loaded = load_preset(preset)
    return {"teacher": loaded.teacher, "student": loaded.student}, dataset_info(loaded)


def _list(networks: dict[str, Network], info: DatasetInfo | None) -> dict[str, Listing]:
    """Return the maps of each network; a file that cannot be opened here is only logged."""
    from rmrkd_cli.networks.listing import list_maps
    from rmrkd_cli.presets.network_schema import FILE_LIBRARIES
    from rmrkd_cli.terminal import messages

    listings = {}
    for what, spec in networks.items():
        try:
            listings[what] = list_maps(spec, info.num_classes if info is not None else _CLASSES, what, info)
        except RmrkdError as error:
            if spec.library not in FILE_LIBRARIES:
                raise
            messages.log(f"the {what} is a file, which gives logits and no other map; not listed: {error.message}")
    return listings


def _parse_options(texts: list[str]) -> dict[str, Any]:
    """Return the options of `--option KEY=VALUE`, whose values are YAML."""
    from rmrkd_cli.presets.safe_yaml import parse_yaml

    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.replace(".", "_").isidentifier():
            raise RmrkdError(f"--option `{text:.80}` must be KEY=VALUE", "--option encoder_name=resnet18")
        options[key] = parse_yaml(value, f"--option `{text:.80}`")
    return options


def _title(what: str, spec: Network) -> str:
    from rmrkd_cli.presets.network_schema import FILE_LIBRARIES

    name = _name(spec)
    if spec.library in FILE_LIBRARIES:
        name = Path(name).name  # the table is narrow
    return f"{what.capitalize()}: " + (name if spec.library == "mmseg" else f"{spec.library}, {name}")


def _name(spec: Network) -> str:
    """Return the name of a network in its library: that of a config, class or function, or a file."""
    return str({"mmseg": spec.config}.get(spec.library, spec.name or getattr(spec, "file", None)))


def _print_names(json_out: str | None) -> None:
    from rmrkd_cli.networks.listing import known_networks, teacher_files
    from rmrkd_cli.terminal import console

    known, files = dict(known_networks()), dict(teacher_files())
    if json_out is not None:
        write_json({"libraries": known, "teacher_files": list(files)}, json_out)
    if json_out == "-":
        return
    rows = [["mmseg", "configs of mmsegmentation 0.30, such as pspnet/pspnet_r18-d8_512x1024_80k_cityscapes.py"]]
    rows += [[library, ", ".join(names)] for library, names in known.items()]
    rows.append(["python", "FILE.py:function, with --code FILE.py"])
    rows += [[library, text] for library, text in files.items()]
    notes = ["", "maps of a network: rmrkd networks NAME", "maps of a preset's networks: rmrkd networks --preset FILE"]
    console.print_table("Networks", ["library", "names"], rows, notes)


def _print_listing(title: str, listing: Listing, *, modules: bool) -> None:
    from rmrkd_cli.terminal import console

    columns = ["map", "module", "channels", "stride"]
    rows = [[each.name, each.module or _UNKNOWN, str(each.channels), str(each.stride)] for each in listing.maps]
    notes = [f"{listing.parameters:,} parameters"]
    notes += [] if modules or not listing.modules else ["--modules lists the places that `maps` in a preset can name"]
    console.print_table(title, columns, rows, notes)
    if modules and listing.modules:
        rows = [[each.module, each.name, str(each.channels), str(each.stride)] for each in listing.modules]
        console.print_table("Modules in the order in which they run", ["module", "class", "channels", "stride"], rows)


def _as_data(what: str, spec: Network, listing: Listing) -> dict[str, Any]:
    maps = [
        {"map": each.name, "module": each.module or None, "channels": each.channels, "stride": each.stride}
        for each in listing.maps
    ]
    modules = [
        {"module": each.module, "class": each.name, "channels": each.channels, "stride": each.stride}
        for each in listing.modules
    ]
    return {
        "network": what, "library": spec.library, "name": _name(spec), "parameters": listing.parameters, "maps": maps,
        "modules": modules,
    }  # fmt: skip
