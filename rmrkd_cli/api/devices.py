"""The devices and worker processes of an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rmrkd_cli.distributed.cluster import Cluster


def choose_devices(device: str, gpus: int | None, loader_processes: int | None) -> tuple[str, Cluster]:
    """Return the device kind, and the workers: another launcher's, else those of the arguments."""
    from rmrkd_cli.data import loader_server

    if gpus in (None, 1):  # before this process imports torch, which takes as long
        loader_server.start_loader_server(loader_processes)
    from rmrkd_cli.distributed.cluster import Cluster, external_cluster
    from rmrkd_cli.distributed.coordination import current_coordinator
    from rmrkd_cli.distributed.device import choose_device, choose_external_device

    if (coordinator := current_coordinator()) is not None:
        cluster = external_cluster(coordinator, gpus=gpus)
        return choose_external_device(device, coordinator.local_size), cluster
    kind, workers = choose_device(device, gpus)
    return kind, Cluster(workers=workers)
