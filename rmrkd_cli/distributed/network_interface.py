"""Find the IP address and the network interface through which this machine reaches another one."""

from __future__ import annotations

import fcntl
import socket
import struct

from rmrkd_cli.errors import RmrkdError

_SIOCGIFADDR = 0x8915  # Linux ioctl: get the address of an interface


def local_address(host: str, port: int) -> str:
    """Return this machine's IP address on the route to a host.

    Raises:
        RmrkdError: When the host name cannot be resolved or there is no route.
    """
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise RmrkdError(f"cannot reach host `{host}`: {error}", "--rdzv-endpoint HOST:PORT") from error


def local_interface(host: str, port: int) -> str | None:
    """Return the name of the network interface on the route to a host; None if no interface has its address."""
    address = local_address(host, port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(reply[20:24]) == address:
                return name
    return None
