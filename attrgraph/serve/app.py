"""The pages and what they ask for."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from attrgraph.attribution.trace import trace
from attrgraph.attribution.trace_settings import DEFAULTS
from attrgraph.errors import AttrGraphError, PromptError
from attrgraph.graph.explored import check_pages, measured_nodes
from attrgraph.interventions.intervention import Intervention
from attrgraph.io.feature_records import read_card
from attrgraph.models.language_model import LanguageModel
from attrgraph.progress import Progress
from attrgraph.serve.experiments import experiment
from attrgraph.serve.graph_page import SHARED, graph_page
from attrgraph.serve.requests import MOST_FEATURES, MOST_TOKENS, ToSet, ToTrace, ToValidate, read_request
from attrgraph.serve.security import Guard
from attrgraph.serve.shelf import Found, Shelf
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
    worker: Worker  # of the model
    features: Path | None = None  # pages of features, shown with graphs
    # makes pages, one by one: they need no model, and a large one takes gigabytes while it is made
    pages: Worker = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pages", Worker(self.worker.limit_s))
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
        found = self.shelf.find(request.graph, request.version)
        if isinstance(request, ToSet):
            return partial(self._experiment, found, request, request.sets)
        return partial(self._validate, found, request)

    def page(self, name: str) -> Callable[[Progress], tuple[str, str]]:
        """The work that makes the page of a graph.

        Raises:
            GraphFileError: there is no graph of this name.
        """
        return partial(graph_page, self.shelf, name, self.shelf.find(name), self.features)

    def _trace(self, asked: ToTrace, progress: Progress) -> dict[str, Any]:
        n_tokens = len(self.model.tokenize(asked.prompt))
        if n_tokens > MOST_TOKENS:
            raise PromptError(f"the prompt has {n_tokens:,} tokens; this server traces at most {MOST_TOKENS:,}.")
        targets, most = asked.targets or None, asked.max_feature_nodes
        graph = trace(self.model, asked.prompt, targets=targets, max_feature_nodes=most, progress=progress)
        return {"graph": self.shelf.add(graph)}

    def _experiment(
        self, found: Found, asked: ToSet, sets: Sequence[Intervention], progress: Progress
    ) -> dict[str, Any]:
        how: dict[str, Any] = {"mode": asked.mode, "max_new_tokens": asked.new_tokens, "progress": progress}
        return experiment(self.model, found.load(), sets, **how).to_dict()

    def _validate(self, found: Found, asked: ToValidate, progress: Progress) -> dict[str, Any]:
        graph, n_nodes, n_controls = found.load(), asked.n_nodes, asked.n_controls
        validation = validate(self.model, graph, n_nodes=n_nodes, n_controls=n_controls, progress=progress)
        self.shelf.validations[graph] = validation
        return {**validation.to_dict(), "measured": measured_nodes(graph, validation)}

    def listing(self) -> dict[str, Any]:
        """What the first page shows."""
        transcoders = self.model.need_transcoders()
        names = {"model": self.model.source["id"], "transcoders": transcoders.source["id"]}
        limits = {"features": DEFAULTS.max_feature_nodes, "most_features": MOST_FEATURES}
        return {**{name: str(each) for name, each in names.items()}, **limits, **self.shelf.listing()}


def make_app(site: Site, *, token: str, port: int) -> Guard:
    """The app as a server runs it: guarded."""

    async def graph(request: Request) -> Response:
        work = await run_in_threadpool(site.page, request.path_params["name"])
        job = _queued(site.pages, work)
        told = ([each async for each in _followed(request, site.pages, job)] or [{}])[-1]
        if "result" not in told:
            return PlainTextResponse(f"{told.get('error', 'cancelled.')}\n", 400)
        page, policy = told["result"]
        return HTMLResponse(page, headers={"content-security-policy": policy})

    async def listing(_: Request) -> Response:
        return JSONResponse(await run_in_threadpool(site.listing))

    def answering(kind: type[Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            body = await request.body()
            work = await run_in_threadpool(site.asked, kind, body)
            job = _queued(site.worker, work)
            lines = (json.dumps(told) + "\n" async for told in _followed(request, site.worker, job))
            return StreamingResponse(lines, media_type="application/x-ndjson")

        return answer

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


def _queued(worker: Worker, work: Callable[[Progress], Any]) -> Job:
    """Have it done after what waits, unless too much does."""
    if worker.n_waiting >= _MOST_WAITING:
        raise HTTPException(503, f"{_MOST_WAITING} requests wait already; try again later.\n")
    return worker.add(work)


async def _followed(request: Request, worker: Worker, job: Job) -> AsyncIterator[dict[str, Any]]:
    """How far it is whenever that has changed, at last the answer. Who leaves gives it up."""
    last = None
    try:
        while not await request.is_disconnected():
            answer, (phase, done, total) = job.answer, job.progress
            now = {"ahead": worker.ahead(job), "phase": phase, "done": done, "total": total}
            if now != last:
                yield now
            if answer is not None:
                yield answer
                return
            last = now
            await asyncio.sleep(_LOOK_EVERY_S)
    finally:
        worker.cancel(job)
