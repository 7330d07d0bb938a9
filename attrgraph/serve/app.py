"""The pages and what they ask for."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from attrgraph.attribution.trace import trace
from attrgraph.attribution.trace_settings import DEFAULTS
from attrgraph.errors import AttrGraphError, PromptError
from attrgraph.graph.explored import check_pages
from attrgraph.graph.graph import Graph
from attrgraph.interventions.intervention import Intervention
from attrgraph.io.feature_records import read_card
from attrgraph.models.language_model import LanguageModel
from attrgraph.progress import Progress
from attrgraph.serve.experiments import experiment
from attrgraph.serve.graph_page import SHARED, graph_page
from attrgraph.serve.requests import MOST_FEATURES, MOST_TOKENS, ToSet, ToTrace, ToValidate, read_request
from attrgraph.serve.security import Guard
from attrgraph.serve.shelf import Shelf
from attrgraph.serve.worker import Job, Worker
from attrgraph.validation.validate import validate

_MOST_WAITING = 32
_LOOK_EVERY_S = 0.05
_PAGES = Path(__file__).parent / "pages"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


@dataclass(frozen=True)
class Site:
    """What the pages show, and who does what they ask for."""

    model: LanguageModel
    shelf: Shelf
    worker: Worker
    features: Path | None = None  # pages of features, shown with graphs

    def __post_init__(self) -> None:
        if self.features is not None:
            check_pages(read_card(self.features), self.model.need_transcoders().source, "the model's")

    def asked(self, kind: type[Any], body: bytes) -> Callable[[Progress], Any]:
        """The work that a body asks for.

        Raises:
            AttrGraphError: the body is not of this kind.
        """
        request = read_request(kind, body)
        if isinstance(request, ToTrace):
            return partial(self._trace, request)
        graph = self.shelf.graph(request.graph)
        if isinstance(request, ToSet):
            return partial(self._experiment, graph, request, request.sets)
        return lambda progress: validate(self.model, graph, n_nodes=request.n_nodes, progress=progress).to_dict()

    def _trace(self, asked: ToTrace, progress: Progress) -> dict[str, Any]:
        n_tokens = len(self.model.tokenize(asked.prompt))
        if n_tokens > MOST_TOKENS:
            raise PromptError(f"the prompt has {n_tokens:,} tokens; this server traces at most {MOST_TOKENS:,}.")
        targets, most = asked.targets or None, asked.max_feature_nodes
        graph = trace(self.model, asked.prompt, targets=targets, max_feature_nodes=most, progress=progress)
        return {"graph": self.shelf.add(graph)}

    def _experiment(
        self, graph: Graph, asked: ToSet, sets: Sequence[Intervention], progress: Progress
    ) -> dict[str, Any]:
        how: dict[str, Any] = {"mode": asked.mode, "max_new_tokens": asked.new_tokens, "progress": progress}
        return experiment(self.model, graph, sets, **how).to_dict()

    def listing(self) -> dict[str, Any]:
        """What the first page shows."""
        transcoders = self.model.need_transcoders()
        names = {"model": self.model.source["id"], "transcoders": transcoders.source["id"]}
        limits = {"features": DEFAULTS.max_feature_nodes, "most_features": MOST_FEATURES}
        return {**{name: str(each) for name, each in names.items()}, **limits, **self.shelf.listing()}


def make_app(site: Site, *, token: str, port: int) -> Guard:
    """The app as a server runs it: guarded."""

    async def graph(request: Request) -> Response:
        name = request.path_params["name"]
        async with rendering:
            page, policy = await run_in_threadpool(graph_page, site.shelf, name, site.features)
        return HTMLResponse(page, headers={"content-security-policy": policy})

    async def listing(_: Request) -> Response:
        return JSONResponse(await run_in_threadpool(site.listing))

    def answering(kind: type[Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            body = await request.body()
            work = await run_in_threadpool(site.asked, kind, body)
            if site.worker.n_waiting >= _MOST_WAITING:
                return PlainTextResponse(f"{_MOST_WAITING} requests wait already; try again later.\n", 503)
            job = site.worker.add(work)
            return StreamingResponse(_told(request, site.worker, job), media_type="application/x-ndjson")

        return answer

    # a large page takes gigabytes while it is made
    rendering = asyncio.Lock()
    routes = [
        Route("/", _file(_PAGES / "start.html")),
        *(Route(f"/{path.name}", _file(path)) for path in (_PAGES / "start.js", _PAGES / "start.css", *SHARED)),
        Route("/graph/{name}", graph),
        Route("/list", listing),
        *(
            Route(f"/{verb}", answering(kind), methods=["POST"])
            for verb, kind in (("trace", ToTrace), ("intervene", ToSet), ("validate", ToValidate))
        ),
    ]
    errors = {AttrGraphError: _one_line, OSError: _one_line}
    return Guard(Starlette(routes=routes, exception_handlers=errors), token=token, port=port)


def _file(path: Path) -> Callable[[Request], Response]:
    def serve(_: Request) -> Response:
        return Response(path.read_bytes(), media_type=_TYPES[path.suffix])

    return serve


def _one_line(_: Request, error: Exception) -> Response:
    line = error.strerror or "the system refused" if isinstance(error, OSError) else str(error)
    return PlainTextResponse(f"{line}\n", 400)


async def _told(request: Request, worker: Worker, job: Job) -> AsyncIterator[str]:
    """Lines of JSON: how far it is whenever that has changed, at last the answer. Who leaves gives it up."""
    last = None
    try:
        while job.answer is None:
            if await request.is_disconnected():
                return
            phase, done, total = job.progress
            now = {"ahead": worker.ahead(job), "phase": phase, "done": done, "total": total}
            if now != last:
                yield json.dumps(now) + "\n"
            last = now
            await asyncio.sleep(_LOOK_EVERY_S)
        yield json.dumps(job.answer) + "\n"
    finally:
        worker.cancel(job)
