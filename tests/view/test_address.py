"""Ports that are taken, and addresses that are none."""

import socket

import pytest

from dreamfusion.error import UserError
from dreamfusion.view.address import free_port, is_loopback, url


def test_a_port_in_use_gives_the_next_free_one():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = free_port("127.0.0.1", port)
        assert port < found <= port + 100
        with socket.create_server(("127.0.0.1", found)):
            pass


def test_port_0_is_any():
    assert free_port("127.0.0.1", 0) > 0


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])  # the first one is of RFC 5737, nobody's
def test_an_address_of_another_machine_is_refused_in_one_sentence(host):
    with pytest.raises(UserError, match=f"mode.host is {host}, which is no address of this machine; type mode.host="):
        free_port(host, 8080)


@pytest.mark.parametrize("port", [-1, 65536, "x", None])
def test_what_is_no_port_is_refused(port):
    with pytest.raises(UserError, match=f"mode.port is {port}; it must be from 1 to 65535"):
        free_port("127.0.0.1", port)


def test_no_free_port_at_the_end_of_the_range():
    with (
        socket.create_server(("127.0.0.1", 65535)),
        pytest.raises(UserError, match=r"the ports 65535 to 65535 of 127\.0\.0\.1 are in use"),
    ):
        free_port("127.0.0.1", 65535)


@pytest.mark.parametrize(
    ("host", "shown", "alone"),
    [
        ("127.0.0.1", "http://127.0.0.1:80", True),
        ("localhost", "http://localhost:80", True),
        ("::1", "http://[::1]:80", True),
        ("0.0.0.0", "http://127.0.0.1:80", False),
        ("::", "http://[::1]:80", False),
        ("192.0.2.1", "http://192.0.2.1:80", False),
        ("lab", "http://lab:80", False),
    ],
)
def test_the_address_to_open_and_who_reaches_it(host, shown, alone):
    assert url(host, 80) == shown
    assert is_loopback(host) is alone
