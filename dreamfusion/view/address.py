"""Where the window is served: an address of this machine and a free port, found before the server starts."""

from __future__ import annotations

import errno
import ipaddress
import socket

from dreamfusion.error import UserError

TRIES = 100  # ports, from the one asked for on
LAST_PORT = 65535


def free_port(host: str, port: int) -> int:
    """`port`, or the next one that nobody listens at; 0 asks the system for any.

    Raises:
        UserError: no number of a port, no address of this machine, or nothing free.
    """
    if not isinstance(port, int) or not 0 <= port <= LAST_PORT:
        raise UserError(f"mode.port is {port}; it must be from 1 to {LAST_PORT}, or 0 for any free one")
    last = min(port + TRIES, LAST_PORT + 1)
    for candidate in range(port, last):
        try:
            family, *_, place = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
            with socket.create_server(place[:2], family=family) as server:
                return int(server.getsockname()[1])
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise UserError(
                    f"mode.host is {host}, which is no address of this machine; type mode.host=127.0.0.1 (this machine "
                    "alone), or mode.host=0.0.0.0 (all that reach it)"
                ) from error
    raise UserError(f"the ports {port} to {last - 1} of {host} are in use or not allowed; type mode.port=NUMBER")


def url(host: str, port: int) -> str:
    """What to open in a browser on this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
