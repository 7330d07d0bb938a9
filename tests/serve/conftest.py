"""A site on the demo model."""

from pathlib import Path

import pytest
from sites import OWN, PORT, TOKEN
from starlette.testclient import TestClient

import attrgraph as ag
from attrgraph.serve.app import Site, make_app
from attrgraph.serve.shelf import Shelf
from attrgraph.serve.worker import Worker


@pytest.fixture(scope="session")
def demo() -> ag.LanguageModel:
    return ag.load_model("demo")


@pytest.fixture
def site(demo: ag.LanguageModel, tmp_path: Path) -> Site:
    return Site(demo, Shelf(tmp_path), Worker(60))


@pytest.fixture
def client(site: Site) -> TestClient:
    """Asks as a page of the site does."""
    return TestClient(make_app(site, token=TOKEN, port=PORT), base_url=f"http://127.0.0.1:{PORT}", headers=OWN)
