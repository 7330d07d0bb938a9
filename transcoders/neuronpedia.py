"""Names of features from Neuronpedia, asked for only where a user says so. Whatever the server does, nothing fails.

One request a hundred features: POST /api/features with [{modelId, layer: "3-clt-hp", index}, ...] answers with the
features that are there and their explanations. Answers are kept in the user's cache folder, attrgraph/neuronpedia/.
The environment variable ATTRGRAPH_NEURONPEDIA names another server.
"""

import json
import os
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError

from attrgraph.errors import AttrGraphError
from attrgraph.files import locked, read_json, write_whole
from attrgraph.transcoders.feature_files import Place

_SERVER, _VARIABLE = "https://www.neuronpedia.org", "ATTRGRAPH_NEURONPEDIA"
_A_REQUEST = 100
# an answer has every feature's histograms, and one example: about 20 KB a feature
_MOST_BYTES = 2**26
_LONGEST = 1000
# for one request, from its first byte to the answer's last
TIMEOUT_S = 30.0

Labels = dict[Place, str]


def ask(names: Mapping[str, str], places: Sequence[Place]) -> tuple[Labels, str]:
    """Names of features by layer and index, as far as they are to be had, and why others are not: empty, or a clause.

    Args:
        names: `model` and `source_set` at Neuronpedia; see `known_sets.neuronpedia_names`.
        places: layer and index of each feature.
    """
    file = _cache_file(names)
    known, problem = _read_cache(file), ""
    asked = [place for place in dict.fromkeys(places) if place not in known]
    found: Labels = {}
    for begin in range(0, len(asked), _A_REQUEST):
        try:
            found |= _in_time(names, asked[begin : begin + _A_REQUEST])
        except Exception as e:  # whatever a server answers: the names are not worth a trace
            problem = " ".join(f"{type(e).__name__}: {e}".split())[:200]
            break
    if found:
        known |= found
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with locked(file.parent):
                rows = sorted((_read_cache(file) | found).items())  # another process may have added some
                text = json.dumps({f"{layer}/{feature}": name for (layer, feature), name in rows})
                write_whole(file, lambda temporary: temporary.write_text(text, encoding="utf-8"), overwrite=True)
        except (OSError, AttrGraphError) as e:
            problem = problem or f"they cannot be kept in {file} ({e})"
    return {place: known[place] for place in places if known.get(place)}, problem


def _cache_file(names: Mapping[str, str]) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "attrgraph" / "neuronpedia"
    other = os.environ.get(_VARIABLE, "")  # whose answers are not mixed with Neuronpedia's
    return folder / re.sub(r"\W+", "-", other) / f"{names['model']}-{names['source_set']}.json"


def _read_cache(file: Path) -> Labels:
    """Names from earlier answers, empty for features that have none; nothing of a file that is not as written here."""
    try:
        places = {tuple(map(int, place.split("/"))): str(name) for place, name in read_json(file).items()}
    except (OSError, ValueError, AttributeError):
        return {}
    return {(place[0], place[1]): name for place, name in places.items() if len(place) == 2}


def _in_time(names: Mapping[str, str], places: Sequence[Place]) -> Labels:
    """One request. It ends in time, also where a server sends a byte now and then."""
    answers = list[Labels | Exception]()

    def request() -> None:
        try:
            answers.append(_request(names, places))
        except Exception as e:
            answers.append(e)

    thread = Thread(target=request, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    if not answers:
        raise TimeoutError(f"no answer within {TIMEOUT_S:g} s")
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]


def _request(names: Mapping[str, str], places: Sequence[Place]) -> Labels:
    server = os.environ.get(_VARIABLE) or _SERVER
    if not server.startswith(("https://", "http://")):
        raise ValueError(f"{_VARIABLE} is {server!r}; expected https://...")
    body = [
        {"modelId": names["model"], "layer": f"{layer}-{names['source_set']}", "index": feature, "maxActsToReturn": 1}
        for layer, feature in places
    ]
    request = urllib.request.Request(
        f"{server.rstrip('/')}/api/features",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "attrgraph"},
    )
    deadline, content = time.monotonic() + TIMEOUT_S, b""
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as answer:
            while chunk := answer.read1(2**16):
                content += chunk
                if len(content) > _MOST_BYTES or time.monotonic() > deadline:
                    raise HTTPException(f"the answer has more than {_MOST_BYTES} bytes, or takes too long")
    except HTTPError as e:
        e.close()  # its connection is open still
        raise
    wanted = set(places)
    return {place: name for place, name in _named(json.loads(content), names) if place in wanted}


def _named(answer: Any, names: Mapping[str, str]) -> Iterator[tuple[Place, str]]:
    """Every feature of an answer with its first explanation that is a text, or with an empty name."""
    for record in answer:
        layer, _, source_set = str(record["layer"]).partition("-")
        of = {"model": record.get("modelId", names["model"]), "source_set": source_set}
        if of != names:
            raise ValueError(f"the answer is about {of['model']}, {source_set}")
        said = [each.get("description") for each in record.get("explanations") or []]
        name = next((text for text in said if isinstance(text, str) and text.strip()), "")
        yield (int(layer), int(record["index"])), " ".join(name.split())[:_LONGEST].encode(errors="replace").decode()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        """Nothing is fetched from elsewhere."""
