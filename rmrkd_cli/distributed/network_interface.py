"""By which address and network interface this machine is seen by another one."""

from __future__ import annotations

import fcntl
import socket
import struct

from rmrkd_cli.errors import RmrkdError

_SIOCGIFADDR = 0x8915  # Linux: the address of an interface


def address_towards(host: str, port: int) -> str:
    """This machine's own address on the way to the meeting place, by which the others can reach it."""
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise RmrkdError(f"`{host}` cannot be found from here: {error}", "--rdzv-endpoint HOST:PORT") from error


def interface_towards(host: str, port: int) -> str | None:
    """The network interface with that address; none where it cannot be told."""
    address = address_towards(host, port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                told = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(told[20:24]) == address:
                return name
    return None
