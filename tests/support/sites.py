"""Sites of `attrgraph serve`: what they answer, and one that is held."""

import json
from collections.abc import Callable
from threading import Event
from typing import Any

from attrgraph.progress import Progress
from attrgraph.serve.app import Site

PORT, TOKEN, PROMPT = 8765, "secret", "in texas the capital is"
OWN = {"Origin": f"http://127.0.0.1:{PORT}", "Authorization": f"Bearer {TOKEN}"}


def answer(response: Any) -> Any:
    """The last line of what a site says of a job."""
    assert response.status_code == 200, response.text
    return json.loads(response.text.splitlines()[-1])


class HeldSite(Site):
    """What is asked goes on until it is let go, and says all the while how far it is."""

    @property
    def may_end(self) -> Event:
        return self.__dict__.setdefault("_may_end", Event())

    def asked(self, kind: type[Any], body: bytes) -> Callable[[Progress], Any]:
        def work(progress: Progress) -> str:
            while not self.may_end.wait(0.01):
                progress("hold", 0, 2)
            return "done"

        return work
