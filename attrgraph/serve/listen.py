"""The server itself: one port of this machine, and nothing else."""

import asyncio
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn

from attrgraph.errors import AttrGraphError
from attrgraph.serve.app import Site, make_app
from attrgraph.serve.security import Guard

_HOST = "127.0.0.1"


def listen(site: Site, *, port: int = 0, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        port: 0 takes one that is free.
        ready: called with the address to open.

    Raises:
        AttrGraphError: the port cannot be had.
    """
    with listening(site, port) as (address, thread):
        ready(address)
        while thread.is_alive():
            thread.join(0.5)


@contextmanager
def listening(site: Site, port: int = 0) -> Iterator[tuple[str, Thread]]:
    """While the body runs, the site is served by a thread; yields the address to open, and the thread.

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
        thread = Thread(target=lambda: asyncio.run(server.serve(sockets=[door])), daemon=True)
        thread.start()
        try:
            yield f"http://{_HOST}:{port}/?token={token}", thread
        finally:
            server.should_exit = True
            thread.join()


def _server(app: Guard) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http="h11",
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
