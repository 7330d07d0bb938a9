"""The server itself: one port of this machine, and nothing else."""

import asyncio
import secrets
import socket
from collections.abc import Callable

import uvicorn

from attrgraph.errors import AttrGraphError
from attrgraph.serve.app import Site, make_app

_HOST = "127.0.0.1"


def listen(site: Site, *, port: int = 0, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        port: 0 takes one that is free.
        ready: called with the address to open.

    Raises:
        AttrGraphError: the port cannot be had.
    """
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((_HOST, port))
        except (OSError, OverflowError) as e:
            raise AttrGraphError(
                f"port {port} cannot be had ({e}); give another one, or 0 for any that is free."
            ) from e
        asyncio.run(server_of(site, door, ready).serve(sockets=[door]))


def server_of(site: Site, door: socket.socket, ready: Callable[[str], None]) -> uvicorn.Server:
    """A server on a port that has been taken."""
    token, port = secrets.token_urlsafe(24), door.getsockname()[1]
    config = uvicorn.Config(
        make_app(site, token=token, port=port),
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
    ready(f"http://{_HOST}:{port}/?token={token}")
    return uvicorn.Server(config)
