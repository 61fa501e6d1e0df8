"""viser's server, restricted to requests from its own page, and without its tunnel to a public address.

Where other machines can reach it, a request needs the server's token: in the URL of the first page, which sets a cookie
that the browser sends with all other requests, also with that for the WebSocket. A stranger gets status 403.

A browser lets any page open a WebSocket to any address, including this machine's loopback address. Only the server can
refuse, by the header `Origin`, which a page cannot change.
"""

import asyncio
import inspect
import logging
import re
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import viser
import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from dreamfusion.error import UserError
from dreamfusion.view.address import is_loopback

log = logging.getLogger(__name__)
Answer = Response | None  # None: continue with the handshake
READY_EVERY = 0.01  # seconds between looks whether a server is ready
HOST = re.compile(r"(\[[^]]+\]|[^:]+)(:\d+)?")


class LocalServer(viser.ViserServer):
    """viser's server that refuses other pages' requests and opens no tunnel."""

    def __init__(self, host: str, port: int, title: str) -> None:
        """Serve at `host` and `port`, or at the next free port."""
        self._loopback_only, self._warned = is_loopback(host), False
        self.token = None if self._loopback_only else secrets.token_urlsafe(24)
        ready = threading.Event()  # viser answers requests before its constructor has ended, and fails
        with _checking_requests(self._refuse, self._complete, ready) as patched:
            super().__init__(host, port, label=title, verbose=False)
        ready.set()
        if not patched:
            self.stop()
            raise UserError(
                f"the installed viser {viser.__version__} does not let the window check which page connects, so a page "
                "of another site could control it; type pip install 'viser>=1.1,<2' 'websockets>=13.1'"
            )

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Disabled: returns None and opens no tunnel."""
        return None

    def _refuse(self, connection: ServerConnection, request: Request) -> Answer:
        reason = refusal_reason(request.headers, self._loopback_only)
        if reason is None and self.token is not None and self.token not in (_url_token(request), self._cookie(request)):
            reason = "a request without the token of the window's URL"
        if reason is None and set(":\\") & set(unquote(urlsplit(request.path).path)):
            reason = "a path with a colon or a backslash, by which Windows leaves the folder of the page's files"
        if reason is None:
            return None
        if not self._warned:  # once, because a page retries
            self._warned = True
            log.warning("refused %s; only the window's own page may connect", reason)
        return connection.respond(HTTPStatus.FORBIDDEN, f"refused {reason}\n")

    def _complete(self, connection: ServerConnection, request: Request, response: Response) -> None:
        """Forbid embedding in another page (clickjacking), and keep the token for the page's other requests."""
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "no-referrer"  # it would tell other sites the URL
        if self.token is not None and _url_token(request) == self.token:
            response.headers["Set-Cookie"] = f"{self._name}={self.token}; HttpOnly; SameSite=Strict; Path=/"

    @property
    def _name(self) -> str:
        """Of the cookie; browsers send cookies to all ports of a host, so each window of it has its own."""
        return f"dreamfusion-{self.get_port()}"

    def _cookie(self, request: Request) -> str | None:
        try:
            found = SimpleCookie("; ".join(request.headers.get_all("Cookie"))).get(self._name)
        except CookieError:
            return None
        return None if found is None else found.value


def _url_token(request: Request) -> str | None:
    return next(iter(parse_qs(urlsplit(request.path).query).get("token", [])), None)


def refusal_reason(headers: Headers, loopback_only: bool) -> str | None:
    """Why to refuse a request from a page of another site; None for the server's own page and for clients without one.

    A server on a loopback address (`loopback_only`) accepts only loopback host names. Any other host name means DNS
    rebinding: a foreign name that resolves to this machine, whose origin would match the host.
    """
    hosts, origins = headers.get_all("Host"), headers.get_all("Origin")
    host = hosts[0].lower() if len(hosts) == 1 else ""
    parts = HOST.fullmatch(host)
    if parts is None or (loopback_only and not is_loopback(parts[1].strip("[]"))):
        return f"a request to {', '.join(hosts)!r}, which is not a loopback address"
    for origin in origins:
        if origin.lower().partition("://")[2] != host:
            return f"a page of {origin!r} at {host!r}"
    return None


@contextmanager
def _checking_requests(
    check: Callable[[ServerConnection, Request], Answer],
    complete: Callable[[ServerConnection, Request, Response], None],
    ready: threading.Event,
) -> Iterator[list[str]]:
    """Call `check` for each request to servers started inside this context, and `complete` for its response.

    Requests wait until the server is `ready`. The list is empty if no server was started.

    viser starts its server with `websockets.asyncio.server.serve`, and has no parameter for a request check.
    """
    serve, started = websockets.asyncio.server.serve, list[str]()

    def serve_checked(*args: Any, process_request: Any = None, **settings: Any) -> websockets.asyncio.server.serve:
        started.append("checked")

        async def process(connection: ServerConnection, request: Request) -> Answer:
            while not ready.is_set():
                await asyncio.sleep(READY_EVERY)
            refused = check(connection, request)
            if refused is not None or process_request is None:
                return refused
            answer: Answer | Awaitable[Answer] = process_request(connection, request)
            return await answer if inspect.isawaitable(answer) else answer

        return serve(*args, process_request=process, **{"process_response": complete} | settings)

    websockets.asyncio.server.serve = serve_checked  # type: ignore[assignment, misc]
    try:
        yield started
    finally:
        websockets.asyncio.server.serve = serve  # type: ignore[misc]
