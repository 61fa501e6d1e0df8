"""Which requests the server accepts: by real WebSocket handshakes, as browsers make them."""

import logging
import socket
import threading
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
import viser
import websockets.asyncio.server
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from dreamfusion.error import UserError
from dreamfusion.view.server import LocalServer, refusal_reason

PROTOCOL = f"viser-v{viser.__version__}"


@pytest.fixture
def serve():
    """serve(host) -> its port; the servers end with the test."""
    servers = []

    def start(host="127.0.0.1"):
        servers.append(LocalServer(host, 0, "a cat"))
        return servers[-1].get_port()

    start.servers = servers
    yield start
    for server in servers:
        server.stop()


def knock(port, host=None, origin=None, path="", cookie=None):
    """The status of a WebSocket handshake with the header `Host: host`."""
    headers = None if cookie is None else {"Cookie": cookie}
    to = socket.create_connection(("127.0.0.1", port))
    try:
        address = f"ws://{host or f'127.0.0.1:{port}'}/{path}"
        settings = {"origin": origin, "subprotocols": [PROTOCOL], "additional_headers": headers}
        with connect(address, sock=to, **settings) as guest:
            guest.recv(timeout=900)  # the server sends messages, too
            return guest.response.status_code
    except InvalidStatus as refused:
        return refused.response.status_code


def test_the_windows_own_page_and_clients_without_a_page_may_connect(serve):
    port = serve()
    assert knock(port) == 101
    for name in ("127.0.0.1", "localhost", "LocalHost"):
        assert knock(port, f"{name}:{port}", f"http://{name.lower()}:{port}") == 101


def test_a_request_during_the_start_waits_until_the_server_is_complete(serve, monkeypatch):
    start, said = viser.infra.WebsockServer.start, []

    def start_and_be_visited(server):
        start(server)
        guest = threading.Thread(target=lambda: said.append(knock(server._port)))
        guest.start()
        guest.join(0.5)  # seconds of a slow constructor
        said.append(guest)

    monkeypatch.setattr(viser.infra.WebsockServer, "start", start_and_be_visited)
    serve()
    guest = said.pop(0)
    guest.join()
    assert said == [101]


def test_a_browser_connects_from_the_windows_page_and_not_from_another_page(serve, browser):
    port, other = serve(), serve()
    knocking = f"""new Promise(done => {{
        const socket = new WebSocket("ws://127.0.0.1:{port}", "{PROTOCOL}");
        socket.onopen = () => done("accepted");
        socket.onerror = () => done("refused");
    }})"""
    assert browser.evaluate(knocking) == "refused"  # from about:blank, a page without an origin
    for page, answer in ((other, "refused"), (port, "accepted")):
        browser.open(f"http://127.0.0.1:{page}")
        browser.wait_for(f"location.port === '{page}'")
        assert browser.evaluate(knocking) == answer


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "http://localhost:{}", "null", ""]
)
def test_a_page_of_another_site_may_not_connect(origin, serve, caplog):
    port = serve()
    for _ in range(2):
        assert knock(port, origin=origin.format(port)) == 403
    (said,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert said.startswith(f"refused a page of {origin.format(port)!r}")
    assert knock(port) == 101


def test_dns_rebinding_is_refused_on_loopback(serve):
    port = serve()
    rebound = f"evil.example:{port}"
    assert knock(port, rebound, f"http://{rebound}") == 403
    page = urllib.request.Request(f"http://127.0.0.1:{port}", headers={"Host": rebound})
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(page)
    said = refused.value.read().decode()
    assert said == f"refused a request to {rebound!r}, which is not a loopback address\n"


@pytest.mark.parametrize("path", ["C:/Users/me/.ssh/id_rsa", "C%3A/secret", r"..\secret", "%5C%5Chost%5Cshare"])
def test_a_path_that_leaves_the_folder_of_the_page_on_windows_is_refused(path, serve):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"http://127.0.0.1:{serve()}/{path}", timeout=900)


def test_the_page_cannot_be_embedded_in_another_page(serve):
    with urllib.request.urlopen(f"http://127.0.0.1:{serve()}") as answer:
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert b"<html" in answer.read()


def test_a_public_window_accepts_any_host_name(serve):
    port = serve("0.0.0.0")
    path = f"?token={serve.servers[-1].token}"
    assert knock(port, "lab", "http://lab", path) == 101
    assert knock(port, "lab", "http://evil.example", path) == 403


def test_a_public_window_needs_the_token_for_its_page_its_files_and_its_controls(serve):
    port = serve("0.0.0.0")
    page, token = f"http://127.0.0.1:{port}", serve.servers[-1].token
    for path in ("/", "/index.html", "/assets/x.js", "/?token=", "/?token=wrong", f"/?Token={token}"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(page + path)
    for cookie in (None, "", "dreamfusion-1=x", f"dreamfusion-{port}=wrong", f"other={token}", "{[=;"):
        assert knock(port, cookie=cookie) == 403
    with urllib.request.urlopen(f"{page}/?token={token}") as answer:
        assert b"<html" in answer.read()
        kept = answer.headers["Set-Cookie"]
    assert kept.endswith("; HttpOnly; SameSite=Strict; Path=/")
    cookie = kept.partition(";")[0]
    assert knock(port, cookie=cookie) == 101
    with urllib.request.urlopen(urllib.request.Request(page, headers={"Cookie": f"a=b; {cookie}"})) as answer:
        assert b"<html" in answer.read()


def test_a_browser_with_the_token_connects_and_one_without_it_does_not(serve, browser):
    port = serve("0.0.0.0")
    knocking = f"""new Promise(done => {{
        const socket = new WebSocket("ws://127.0.0.1:{port}", "{PROTOCOL}");
        socket.onopen = () => done("accepted");
        socket.onerror = () => done("refused");
    }})"""
    for query, answer in (("", "refused"), (f"?token={serve.servers[-1].token}", "accepted")):
        browser.open(f"http://127.0.0.1:{port}/{query}")
        browser.wait_for(f"location.port === '{port}' && location.search === '{query}'")
        assert browser.evaluate(knocking) == answer


@pytest.mark.parametrize(
    ("host", "origin", "refused"),
    [
        ("[::1]:80", "http://[::1]:80", False),
        ("127.0.0.1", "https://127.0.0.1", False),
        ("localhost", None, False),
        ("localhost.evil.example", None, True),
        ("127.0.0.1.evil.example", None, True),
        ("evil@127.0.0.1", None, True),
        ("192.0.2.1", None, True),
        ("", None, True),
        ("[::1", None, True),
    ],
)
def test_loopback_host_names(host, origin, refused):
    headers = Headers(Host=host) if origin is None else Headers(Host=host, Origin=origin)
    assert (refusal_reason(headers, loopback_only=True) is not None) is refused


def test_every_origin_must_match_and_there_must_be_one_host():
    headers = Headers(Host="lab", Origin="http://lab")
    assert refusal_reason(headers, loopback_only=False) is None
    headers["Origin"] = "http://evil.example"  # added to the first
    assert refusal_reason(headers, loopback_only=False) is not None
    assert refusal_reason(Headers([("Host", "lab"), ("Host", "lab")]), loopback_only=False) is not None


def test_a_viser_that_cannot_be_checked_is_refused(serve, monkeypatch):
    own = SimpleNamespace(server=SimpleNamespace(serve=websockets.asyncio.server.serve))
    parts = {"datastructures": websockets.datastructures, "exceptions": websockets.exceptions}
    monkeypatch.setattr("viser.infra._infra.websockets", SimpleNamespace(asyncio=own, **parts))
    with pytest.raises(UserError, match=f"the installed viser {viser.__version__} does not let the window check"):
        serve()


def test_websockets_is_restored_afterwards(serve):
    before = websockets.asyncio.server.serve
    serve()
    assert websockets.asyncio.server.serve is before
