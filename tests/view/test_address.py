"""Invalid hosts and ports are refused; viser moves to the next port if one is in use."""

import socket

import pytest

from dreamfusion.error import UserError
from dreamfusion.view.address import LAST_PORT, check_address, is_loopback, url
from dreamfusion.view.mailbox import Mailbox
from dreamfusion.view.window import Window


def test_a_port_in_use_gives_the_next_free_one(caplog):
    caplog.set_level("INFO")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        window = Window("127.0.0.1", port, Mailbox(0.0, 1, 8, 16), "a cat")
        window.close()
    assert int(window.url.rsplit(":", 1)[1]) > port
    assert f"open {window.url} (port {port} is in use; Ctrl-C closes it)" in caplog.messages


@pytest.mark.parametrize("port", [0, 1, LAST_PORT])
def test_valid_ports_pass_whether_or_not_they_are_free(port):
    check_address("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])  # RFC 5737: an address that no machine has
def test_an_address_of_another_machine_is_refused_in_one_sentence(host):
    with pytest.raises(UserError, match=f"mode.host is {host}, which is not an address of this machine; type mode.h"):
        check_address(host, 8080)


@pytest.mark.parametrize("port", [-1, 65536, "x", None])
def test_an_invalid_port_is_refused(port):
    with pytest.raises(UserError, match=f"mode.port is {port}; it must be from 1 to {LAST_PORT}, or 0"):
        check_address("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "shown", "loopback"),
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
def test_the_url_of_an_address_and_whether_it_is_loopback(host, shown, loopback):
    assert url(host, 80) == shown
    assert is_loopback(host) is loopback
