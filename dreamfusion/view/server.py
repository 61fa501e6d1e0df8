"""viser's server as the window needs it: pages of its own alone may talk with it, and it opens no tunnel.

A browser lets any page open a WebSocket to any address, also to one that only this machine reaches. Who may come is for
the server to say, by the header `Origin`, which a page cannot change.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import viser
import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from dreamfusion.view.address import is_loopback

log = logging.getLogger(__name__)
Answer = Response | None  # None goes on to the handshake
HOST = re.compile(r"(\[[^]]+\]|[^:]+)(:\d+)?")


class LocalServer(viser.ViserServer):
    """viser's server for pages of its own, and without its tunnel: nothing leaves this machine by a button."""

    def __init__(self, host: str, port: int, title: str) -> None:
        """Serve at `host` and `port`, from now on."""
        self._loopback_only, self._warned = is_loopback(host), False
        with _checking_requests(self._refuse):
            super().__init__(host, port, label=title, verbose=False)

    def request_share_url(self, verbose: bool = True) -> str | None:
        """There is none."""
        return None

    def _refuse(self, connection: ServerConnection, request: Request) -> Answer:
        reason = refusal_reason(request.headers, self._loopback_only)
        if reason is None:
            return None
        if not self._warned:  # once: a page tries again and again
            self._warned = True
            log.warning("refused %s; only the window's own page may press its buttons", reason)
        return connection.respond(HTTPStatus.FORBIDDEN, f"refused {reason}\n")


def refusal_reason(headers: Headers, loopback_only: bool) -> str | None:
    """Who it is, if a request comes from a page that is not the server's own; whoever has no page may come.

    A server that only this machine reaches (`alone`) has only this machine's names. With another one a page got here
    whose name was made to point to this machine (DNS rebinding): by its origin it would be our own.
    """
    hosts, origins = headers.get_all("Host"), headers.get_all("Origin")
    host = hosts[0].lower() if len(hosts) == 1 else ""
    parts = HOST.fullmatch(host)
    if parts is None or (loopback_only and not is_loopback(parts[1].strip("[]"))):
        return f"a request to {', '.join(hosts)!r}, which is no name of this machine alone"
    for origin in origins:
        if origin.lower().partition("://")[2] != host:
            return f"a page of {origin!r} at {host!r}"
    return None


@contextmanager
def _checking_requests(check: Callable[[ServerConnection, Request], Answer]) -> Iterator[None]:
    """Have `check` look at each request to a server that is started meanwhile.

    viser starts one by `websockets.asyncio.server.serve`, and leaves no room for an argument of ours.
    """
    serve, asked = websockets.asyncio.server.serve, False

    def serve_checked(*args: Any, process_request: Any = None, **settings: Any) -> websockets.asyncio.server.serve:
        nonlocal asked
        asked = True

        def process(connection: ServerConnection, request: Request) -> Answer | Awaitable[Answer]:
            refused = check(connection, request)
            if refused is not None or process_request is None:
                return refused
            answer: Answer | Awaitable[Answer] = process_request(connection, request)
            return answer

        return serve(*args, process_request=process, **{"process_response": _forbid_framing} | settings)

    websockets.asyncio.server.serve = serve_checked  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        websockets.asyncio.server.serve = serve  # type: ignore[misc]
    if not asked:
        log.warning(
            "this version of viser, %s, does not let the window see which page connects: while it is open, a page of "
            "another site in a browser of this machine could press its buttons",
            viser.__version__,
        )


def _forbid_framing(connection: ServerConnection, request: Request, response: Response) -> None:
    """Not inside another page, which could lay something over a button that is not what is pressed."""
    response.headers["X-Frame-Options"] = "DENY"
