"""The weight files that roles start from, and their download before training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rmrkd_cli.distillation.factory import trained_network
from rmrkd_cli.errors import DownloadError, RmrkdError
from rmrkd_cli.networks.hub import WEIGHT_FILES, cached_hub_file, hub_folder
from rmrkd_cli.networks.libraries import MMSEG, network_config, start_source
from rmrkd_cli.networks.weights import fetch_imagenet, fetch_weights, imagenet_url
from rmrkd_cli.presets.network_schema import CheckpointSource, Network
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.storage.cache import cache_path
from rmrkd_cli.storage.download import Progress
from rmrkd_cli.terminal.live_display import ProgressBar, live_display


class Download(NamedTuple):
    """A file on a server.

    Attributes:
        origin: Its URL, or the name of a model on the Hugging Face hub.
        path: Where it is kept; of a model on the hub that is missing, the folder.
    """

    origin: str
    path: Path
    is_present: bool

    def describe(self) -> str:
        if self.is_present:
            return f"already downloaded: {self.origin}, in `{self.path}`"
        return f"training first downloads {self.origin} to `{self.path}`"


@dataclass(frozen=True)
class WeightFile:
    """A file that a role starts from.

    Attributes:
        what: "teacher" or "student".
        source: A checkpoint; None for the ImageNet weights of the network's backbone.
        is_start: The network is trained from it, so that it may be of the backbone alone.
    """

    what: str
    network: Network
    source: CheckpointSource | None
    is_start: bool = True

    def fetch(self, on_progress: Progress | None = None) -> None:
        """Download it if it is not in the cache."""
        if self.source is not None:
            fetch_weights(self.source, self.what, on_progress)
        else:
            fetch_imagenet(network_config(self.network, num_classes=1), self.what, on_progress)

    def download(self) -> Download | None:
        """Return where it is downloaded from and to; None for a local file.

        Raises:
            RmrkdError: The network's config names no weights.
        """
        source = self.source
        if source is not None and source.path is not None:
            return None
        if source is not None and source.hub is not None:
            cached = cached_hub_file(source.hub, *WEIGHT_FILES)
            return Download(
                f"{source.hub} on the Hugging Face hub", cached or hub_folder(source.hub), cached is not None
            )
        url = (
            str(source.url)
            if source is not None
            else imagenet_url(network_config(self.network, num_classes=1), self.what)
        )
        path = cache_path(url)
        return Download(url, path, path.is_file())

    def is_present(self) -> bool:
        if self.source is not None and self.source.path is not None:
            return Path(self.source.path).is_file()
        download = self.download()
        return download is None or download.is_present


def weight_files(preset: Preset, roles: Sequence[str]) -> Iterator[WeightFile]:
    """Yield the files that the roles start from, each once."""
    found = []
    for role in roles:
        network, what = trained_network(preset, role), "teacher" if role == "teacher" else "student"
        if (source := start_source(network, what)) is not None:
            found.append(WeightFile(what, network, source))
        elif network.library == MMSEG and network.init == "imagenet":
            found.append(WeightFile(what, network, None))
    if "distill" in roles and preset.teacher.checkpoint is not None and preset.teacher.outputs is None:
        found.append(WeightFile("teacher", preset.teacher, preset.teacher.checkpoint, is_start=False))
    for number, file in enumerate(found):
        if file not in found[:number]:
            yield file


def describe_downloads(files: Iterable[WeightFile]) -> list[str]:
    """Return a line for each file of a server: what is downloaded, where it is kept, and whether it is there."""
    found = [download for file in files if (download := file.download()) is not None]
    return [download.describe() for download in dict.fromkeys(found)]


def download_weights(files: Iterable[WeightFile]) -> None:
    """Download before training, because a collective operation times out while one worker downloads.

    Raises:
        RmrkdError: With every file that cannot be downloaded.
    """
    failed: list[DownloadError] = []
    with live_display() as terminal:
        progress_bar: ProgressBar | None = None

        def on_progress(done: int, total: int) -> None:
            nonlocal progress_bar
            progress_bar = progress_bar or terminal.progress_bar("download, MiB", total >> 20)
            if progress_bar is not None:
                progress_bar.update(done >> 20)

        for file in files:
            try:
                file.fetch(on_progress)
            except DownloadError as error:
                failed.append(error)
        if progress_bar is not None:
            progress_bar.close()
    if failed:
        raise _join(failed)


def _join(failed: Sequence[DownloadError]) -> RmrkdError:
    """Return one error for all files, whose hint has a place for each of them."""
    unique = list({error.url: error for error in failed}.values())
    if len(unique) == 1:
        return unique[0]
    lines = "".join(f"\n  {error.url} ({error.reason})" for error in unique)
    places = ", ".join(f"`{error.target}`" for error in unique)
    others = list(dict.fromkeys(error.alternative for error in unique if error.alternative))
    return RmrkdError(
        f"cannot download {len(unique)} files:{lines}",
        f"download them by other means and save them as {places}" + "".join(f"; or {other}" for other in others),
    )
