"""The package itself: links, imports, public names."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from six_nodes import six_nodes

import attrgraph as ag

pytestmark = pytest.mark.doors

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("room", ["transcoders", "kernels", "cli"])
def test_each_room_is_reached_through_its_link(room: str) -> None:
    link = ROOT / "attrgraph" / room
    assert link.is_symlink()
    assert not Path(link.readlink()).is_absolute()
    assert link.resolve() == ROOT / room
    assert (link / "__init__.py").is_file()


def test_public_names_exist() -> None:
    for name in ag.__all__:
        assert getattr(ag, name) is not None
    assert set(ag.__all__) <= set(dir(ag))
    with pytest.raises(AttributeError, match="No attrgraph attribute tracee"):
        ag.tracee  # noqa: B018


# what makes a start slow: never needed to look at a graph file
HEAVY = "torch transformers huggingface_hub networkx scipy.optimize scipy.stats scipy.cluster matplotlib graphviz"


@pytest.mark.parametrize(
    ("commands", "never"),
    [
        (["--help", "trace --help"], f"{HEAVY} numpy pandas scipy rich"),
        (["info g.safetensors --json"], f"{HEAVY} rich"),
        (
            [
                "info g.safetensors",
                "prune g.safetensors -o p.json",
                "query g.safetensors 'layer > 1'",
                "paths g.safetensors",
                "effect g.safetensors 0_2_1 1_3_1",
                "check g.safetensors",
                "explore g.safetensors -o p.html",
            ],
            HEAVY,
        ),
        (["trace 'in texas the capital is'"], "networkx scipy.stats scipy.cluster matplotlib graphviz datasets"),
    ],
)
def test_verbs_import_only_what_they_need(commands: list[str], never: str, tmp_path: Path) -> None:
    six_nodes().save(tmp_path / "g.safetensors")
    code = (
        "import shlex, sys; from attrgraph.cli.main import main; "
        f"codes = {{main(shlex.split(command)) for command in {commands!r}}}; "
        f"print([m for m in {never.split()!r} if m in sys.modules], codes, file=sys.stderr)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stderr.strip().splitlines()[-1] == "[] {0}", out.stderr


def test_importing_the_package_imports_none_of_its_rooms() -> None:
    code = "import sys, attrgraph; print(sorted(m for m in sys.modules if m.startswith('attrgraph.')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_functions_stay_functions_when_their_modules_are_imported() -> None:
    for module in pkgutil.walk_packages(ag.__path__, "attrgraph."):
        if "_triton" not in module.name:
            importlib.import_module(module.name)
    assert [name for name in ag.__all__ if not callable(getattr(ag, name))] == []


def test_checkout_without_links_refuses_to_build(tmp_path: Path) -> None:
    """Git without link support writes each link as a small text file."""
    (tmp_path / "attrgraph").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for room in ("transcoders", "kernels", "cli"):
        (tmp_path / "attrgraph" / room).write_text(f"../{room}")
    out = subprocess.run([sys.executable, "setup.py", "--name"], capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode != 0
    assert "made without symbolic links" in out.stderr
