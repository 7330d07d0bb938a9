"""Native files: what was altered, or holds what no graph has, is refused and said by check."""

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy import sparse
from six_nodes import six_nodes

import attrgraph as ag
from attrgraph.errors import GraphFileError
from attrgraph.io.check import check_graph_file
from attrgraph.io.check_parts import check_parts
from attrgraph.io.problems import Findings
from attrgraph.schema import GraphParts


def test_a_file_with_any_bit_flipped_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    six_nodes().save(path)
    raw, rng = path.read_bytes(), random.Random(0)
    # every bit of the header, in which names, types and places stand, is likelier than one of the numbers
    places = [rng.randrange(8 + int.from_bytes(raw[:8], "little")) for _ in range(100)]
    for place in places + [rng.randrange(len(raw)) for _ in range(100)]:
        altered = bytearray(raw)
        altered[place] ^= 1 << rng.randrange(8)
        path.write_bytes(altered)
        with pytest.raises(GraphFileError) as found:
            ag.load_graph(path)
        assert "\n" not in str(found.value)


def with_text(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("version", [b"0", b"1", b"3", b"9", b" "])
def test_a_checksum_is_verified_whatever_version_the_file_says(
    version: bytes, is_large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_large:
        monkeypatch.setattr("attrgraph.io.native._MAX_HEADER", 10)
    path, graph = tmp_path / "union.safetensors", ag.union([six_nodes(), six_nodes()])
    graph.save(path)
    said = b'format_version\\": '
    if version != b"3" or not is_large:
        with_text(path, said + (b"3" if is_large else b"2"), said + version)
    weight = b'weight_mean"' if is_large else b'weight_mean\\"'
    with_text(path, weight, weight.replace(b"mean", b"meam"))
    with pytest.raises(GraphFileError, match=r"checksum is not that of its content|not a whole graph file"):
        ag.load_graph(path)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", 4])
def test_versions_that_no_file_has_are_refused(version: object, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    six_nodes().save(path)
    as_version_1(path, version=version)
    with pytest.raises(GraphFileError, match=r"format_version is .*, expected 1 to 3|written by a newer attrgraph"):
        ag.load_graph(path)


def as_version_1(path: Path, tensor: str = "", value: object = None, version: object = 1) -> None:
    """Write the file as before checksums, with one tensor altered."""
    with safe_open(path, framework="np") as file:
        content = json.loads(file.metadata()["attrgraph-graph"]) | {"format_version": version}
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != "checksum"}  # noqa: SIM118 (safe_open is no mapping)
    if isinstance(value, list):
        tensors[tensor] = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
    elif tensor:
        tensors[tensor][0] = value
    save_file(tensors, path, metadata={"attrgraph-graph": json.dumps(content)})


def test_files_of_version_1_have_no_checksum_and_are_read(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    six_nodes().save(path)
    as_version_1(path)
    assert ag.load_graph(path).nodes.equals(six_nodes().nodes)
    as_version_1(path, version=2)
    with pytest.raises(GraphFileError, match=r"not a whole graph file .*checksum"):
        ag.load_graph(path)


@pytest.mark.parametrize(
    ("tensor", "value", "code"),
    [
        ("adjacency.data", np.nan, "edge"),
        ("adjacency.data", np.inf, "edge"),
        ("adjacency.indices", 5, "layer-order"),
        ("nodes.activation", np.nan, "number"),
        ("nodes.influence", np.inf, "number"),
        ("nodes.influence", -0.1, "influence"),
        ("nodes.cumulative_influence", 1.1, "share"),
        ("nodes.probability", -5.0, "share"),
        ("nodes.pos", 10**9, "position"),
        ("nodes.pos", -1, "position"),
        ("nodes.layer", -1, "layer"),
        ("nodes.layer", 99, "layer"),
        ("nodes.feature", -1, "feature-number"),
        ("nodes.node_id", ["0_1_0", "0_1_0", "1_3_1", "E_7_0", "E_8_1", "3_9_1"], "duplicate-node-id"),
        ("nodes.token", ["one", 2, "two", "one", "two", "word9"], "unreadable"),
    ],
)
def test_what_no_graph_has_is_refused_and_named(tensor: str, value: object, code: str, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    six_nodes().save(path)
    as_version_1(path, tensor, value)
    with pytest.raises(GraphFileError, match=r"is damaged: .* attrgraph check lists all|not a whole graph file"):
        ag.load_graph(path)
    assert code in [problem.code for problem in check_graph_file(path)]


@pytest.mark.parametrize(("sources", "code"), [([1, 0], "edge-order"), ([0, 0], "duplicate-edge")])
def test_edges_are_in_order_and_there_once(sources: list[int], code: str, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    graph = six_nodes()
    edges = (graph.adjacency.data, graph.adjacency.indices.copy(), graph.adjacency.indptr)
    adjacency = sparse.csr_array(edges, shape=graph.adjacency.shape)
    adjacency.indices[3:5] = sources  # of c, which reads a and b
    findings = Findings()
    check_parts(GraphParts(graph.nodes, adjacency, graph.prompt_tokens, graph.metadata), findings)
    assert [problem.code for problem in findings.problems] == [code]
    graph.replace(adjacency=adjacency).save(path)  # edges between two nodes add up
    again = ag.load_graph(path).adjacency
    assert again.has_canonical_format and np.array_equal(again.toarray(), adjacency.toarray())


@pytest.mark.refusal
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    graph, path = six_nodes(), tmp_path / "g.safetensors"
    with pytest.raises(GraphFileError, match=r"the graph holds what its file cannot .* is the id of several nodes"):
        graph.replace(nodes=graph.nodes.rename(index={"0_2_1": "0_1_0"})).save(path)
    broken = pd.Series(["\ud800"] * 6, dtype=object, index=graph.nodes.index)
    with pytest.raises(GraphFileError, match="surrogates not allowed"):
        graph.replace(nodes=graph.nodes.assign(label=broken)).save(path)
    for name in ("g.safetensors", "g.json"):
        with pytest.raises(GraphFileError, match="a set where text, numbers"):
            ag.export_graph(graph.replace(metadata={**graph.metadata, "settings": {"x": {1, 2}}}), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    about = {"x": np.float32(0.5), "y": np.int64(3), "z": np.arange(2), "w": np.bool_(True)}
    graph = six_nodes()
    for name in ("g.safetensors", "g.json"):
        ag.export_graph(graph.replace(metadata={**graph.metadata, "settings": about}), tmp_path / name)
        assert ag.load_graph(tmp_path / name).metadata["settings"] == {"x": 0.5, "y": 3, "z": [0, 1], "w": True}


def test_metadata_of_any_size_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attrgraph.io.native._MAX_HEADER", 1000)
    graph, path = six_nodes(), tmp_path / "g.safetensors"
    large = graph.replace(metadata={**graph.metadata, "long": ["\u6771"] * 1000})
    large.save(path)
    assert ag.load_graph(path).metadata == large.metadata and check_graph_file(path) == []
    content = bytearray(path.read_bytes())
    content[content.index(b"n_layers")] ^= 1
    path.write_bytes(content)
    with pytest.raises(GraphFileError, match="its checksum is not that of its content"):
        ag.load_graph(path)


@pytest.mark.refusal
@pytest.mark.parametrize(
    "metadata",
    [{"skipped_positions": 5}, {"skipped_positions": [{"pos": 1}]}, {"notes": [1]}, {"checks": {"is_exact": False}}],
)
def test_metadata_that_summaries_could_not_print_are_refused(metadata: dict[str, object], tmp_path: Path) -> None:
    graph = six_nodes()
    for name in ("g.safetensors", "g.json"):
        ag.export_graph(graph.replace(metadata={**graph.metadata, **metadata}), tmp_path / name)
        with pytest.raises(GraphFileError):
            ag.load_graph(tmp_path / name)
