"""Check the window's host and port before viser serves there, and format its URL."""

import ipaddress
import socket

from dreamfusion.error import UserError

LAST_PORT = 65535 - 1000  # viser tries the next 1000 ports if one is in use, and never returns once it passes 65535


def check_address(host: str, port: int) -> None:
    """Check that this machine can serve at `host`; viser would wait forever for an address it cannot bind.

    Raises:
        UserError: `port` is out of range, or `host` is not an address of this machine.
    """
    if not isinstance(port, int) or not 0 <= port <= LAST_PORT:
        raise UserError(f"mode.port is {port}; it must be from 1 to {LAST_PORT}, or 0 for any free port")
    try:
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        raise UserError(
            f"mode.host is {host}, which is not an address of this machine; type mode.host=127.0.0.1 (reachable from "
            "this machine only), or mode.host=0.0.0.0 (reachable from other machines, by a token)"
        ) from error


def url(host: str, port: int) -> str:
    """The URL to open in a browser on this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


def is_loopback(host: str) -> bool:
    """Whether the address is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
