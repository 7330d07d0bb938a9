"""The server itself: one port of this machine, and nothing else."""

import asyncio
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from attrgraph.errors import AttrGraphError
from attrgraph.serve.app import Site, make_app
from attrgraph.serve.security import Guard

_HOST = "127.0.0.1"
# for a connection to bring a request: without an end, idle ones would fill all places
_REQUEST_S = 20.0


class _Connection(H11Protocol):
    """A connection that is closed if nothing is asked on it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(_REQUEST_S, self._end_if_unasked)

    def _end_if_unasked(self) -> None:
        if self.cycle is None:
            self.transport.close()


def listen(site: Site, *, port: int = 0, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        port: 0 takes one that is free.
        ready: called with the address to open.

    Raises:
        AttrGraphError: the port cannot be had.
    """
    with listening(site, port) as (address, has_ended):
        ready(address)
        while not has_ended.wait(0.5):
            pass


@contextmanager
def listening(site: Site, port: int = 0) -> Iterator[tuple[str, Event]]:
    """While the body runs, the site is served by a thread; yields the address to open, and whether it has ended.

    Raises:
        AttrGraphError: the port cannot be had.
    """
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((_HOST, port))
            door.listen()
        except OSError as e:
            why = e.strerror or e
            raise AttrGraphError(f"port {port} cannot be had ({why}); give another, or 0 for any free one.") from e
        token, port = secrets.token_urlsafe(24), door.getsockname()[1]
        server = _server(make_app(site, token=token, port=port))
        # not the thread's join: in Python 3.11 a Ctrl-C there makes the thread look ended
        has_ended = Event()

        def run() -> None:
            try:
                asyncio.run(server.serve(sockets=[door]))
            finally:
                has_ended.set()

        Thread(target=run, daemon=True).start()
        try:
            yield f"http://{_HOST}:{port}/?token={token}", has_ended
        finally:
            server.should_exit = True
            has_ended.wait()


def _server(app: Guard) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        limit_concurrency=200,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
