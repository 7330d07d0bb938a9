"""The structure that CONTRIBUTING promises: rooms, one direction of imports, sizes."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

pytestmark = pytest.mark.doors

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "attrgraph"
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_LOOSE_MODULES = 400, 60, 6
MOST_LINES_OF_A_SCRIPT = 300


def modules() -> dict[str, Path]:
    """Every module of the package, the linked rooms included."""
    rooms = [path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    files = [*PACKAGE.glob("*.py"), *(file for room in rooms for file in (PACKAGE / room.name).rglob("*.py"))]
    # rglob does not follow links below its start, and there are none
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    assert {"attrgraph.cli.main", "attrgraph.kernels.pairs", "attrgraph.transcoders.training.step"} <= set(names)
    return names


def imports_of(tree: ast.AST, names: set[str]) -> Iterator[str]:
    """The package's modules that a module imports when it runs, those inside functions included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if (name if name in names else node.module) in names:
                    yield name if name in names else node.module
        yield from imports_of(node, names)


def test_no_module_imports_itself_by_way_of_others() -> None:
    files = modules()
    graph = nx.DiGraph(
        (name, imported)
        for name, file in files.items()
        for imported in imports_of(ast.parse(file.read_text(encoding="utf-8")), set(files))
    )
    assert graph.number_of_edges() > 500
    assert [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1] == []
    assert list(nx.selfloop_edges(graph)) == []


def test_rooms_are_few_and_in_the_import_contract() -> None:
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert len(loose) <= MOST_LOOSE_MODULES
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    listed = {name.strip() for layer in contract["layers"] for name in layer.split(":")}
    assert listed == rooms | loose - {"__init__"}


def test_files_and_functions_are_short() -> None:
    for file in modules().values():
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= MOST_LINES, file
        for node in ast.walk(ast.parse(text)):
            # a verb is a list of options
            if isinstance(node, ast.FunctionDef) and "cli" not in file.relative_to(ROOT).parts:
                n_lines = node.end_lineno - node.lineno + 1  # type: ignore[operator]
                assert n_lines <= MOST_LINES_OF_A_FUNCTION, f"{file}: {node.name}"


def test_scripts_of_pages_are_short() -> None:
    files = list((PACKAGE / "viz" / "explorer").glob("*.js"))
    assert len(files) > 10
    for file in files:
        assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_LINES_OF_A_SCRIPT, file


def test_modules_are_told_apart_by_their_names() -> None:
    # verbs of the command line are called as what they run
    names = [
        name.rpartition(".")[2] for name, file in modules().items() if file.stem != "__init__" and ".cli." not in name
    ]
    assert sorted({name for name in names if names.count(name) > 1}) == []
