"""Files and folders of documents: what is read from each format, and what is refused with which words."""

import hashlib
import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from attrgraph.data.documents import Documents
from attrgraph.errors import CorpusError

TEXTS = ["the first", "the second, with ünïcödé \u2028 inside", "the first", " the last "]


class Terminal(io.StringIO):
    """Where progress bars show themselves."""

    def isatty(self) -> bool:
        return True


def texts_of(*paths: str | Path, text_field: str = "text") -> list[str]:
    return list(Documents(paths, text_field))


def as_json_lines(texts: list[str], **others: Any) -> str:
    return "".join(json.dumps({"id": i, "text": text, **others}) + "\n" for i, text in enumerate(texts))


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.txt", "a.text", "a"])
def test_text_files_hold_a_document_a_line(tmp_path: Path, name: str, end: str) -> None:
    path = tmp_path / name
    path.write_bytes(end.join(["", *TEXTS, "", "\t ", "no end"]).encode())
    assert texts_of(path) == [*TEXTS, "no end"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfthe first\n\xef\xbb\xbfsecond\n")
    assert texts_of(path) == ["the first", "\ufeffsecond"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json-lines", ".JSONL"])
def test_json_lines_hold_an_object_a_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text(as_json_lines(TEXTS) + "\n" + as_json_lines(["", "two\nlines"]))
    assert texts_of(path) == [*TEXTS, "two\nlines"]
    path.write_text('{"text": 5, "body": "words"}\n')
    assert texts_of(path, text_field="body") == ["words"]


def test_sources_are_digests_of_what_was_read(tmp_path: Path) -> None:
    one, two = tmp_path / "a.txt", tmp_path / "b.jsonl"
    one.write_bytes(b"a\r\nb")
    two.write_text(as_json_lines(TEXTS))
    documents = Documents([one, str(two)], "text")
    iterator = iter(documents)
    next(iterator)
    assert documents.sources() == {str(one): sha256(b"a\r\n"), str(two): sha256(b"")}
    assert len(list(iterator)) == 1 + len(TEXTS)
    assert documents.sources() == {str(one): sha256(one.read_bytes()), str(two): sha256(two.read_bytes())}


def test_folders_are_read_by_name(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.TXT", "notes.md", ".hidden.txt"):
        (tmp_path / name).write_text(f"in {name}\n")
    (tmp_path / "d.txt").mkdir()
    assert texts_of(tmp_path) == ["in a.txt", "in b.txt", "in c.TXT"]
    before = Documents([tmp_path], "text")
    assert len(list(before)) == 3
    (tmp_path / "b.txt").rename(tmp_path / "bb.txt")
    after = Documents([tmp_path], "text")
    assert len(list(after)) == 3 and before.sources() != after.sources()


# -- Hugging Face datasets -------------------------------------------------------------------------------------------


@pytest.fixture
def save_dataset(tmp_path: Path) -> Callable[..., Path]:
    """`save_dataset(columns, **options of save_to_disk)`: the folder."""
    datasets = pytest.importorskip("datasets")

    def save(columns: dict[str, list[Any]], **options: Any) -> Path:
        folder = tmp_path / "saved"
        datasets.disable_progress_bars()
        datasets.Dataset.from_dict(columns).save_to_disk(folder, **options)
        datasets.enable_progress_bars()
        return folder

    return save


def test_saved_datasets_are_read_silently(save_dataset: Callable[..., Path]) -> None:
    n_shards = 20
    folder = save_dataset({"id": list(range(40)), "text": TEXTS * 10}, num_shards=n_shards)
    stdout, stderr = Terminal(), Terminal()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        documents = Documents([folder], "text")
        assert list(documents) == TEXTS * 10
    assert stdout.getvalue() == stderr.getvalue() == ""
    shards = sorted(folder.glob("*.arrow"))
    assert len(shards) == n_shards
    assert documents.sources() == {str(folder): sha256(b"".join(path.read_bytes() for path in shards))}


def test_parquet_is_read_alone_and_in_folders(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "of").mkdir()
    paths = [tmp_path / "of" / f"{name}.parquet" for name in "ab"]
    for path, texts in zip(paths, (TEXTS, ["x"] * 2500), strict=True):
        datasets.Dataset.from_dict({"id": list(range(len(texts))), "body": texts}).to_parquet(path)
    assert texts_of(paths[0], text_field="body") == TEXTS
    documents = Documents([tmp_path / "of"], "body")
    assert list(documents) == TEXTS + ["x"] * 2500
    content = b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in paths)
    assert documents.sources() == {str(tmp_path / "of"): sha256(content)}


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nna\xefve\n", r"a\.txt: is not UTF-8 text: line 2, byte 7 of the file is 0xef; convert it"),
        ("a.jsonl", b'{"text": "\xff"}', r"not UTF-8 text: line 1, byte 10 of the file is 0xff"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": ', r"a\.jsonl, line 3: is not JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1: is not JSON"),
        ("a.jsonl", b'["a"]', "line 1: expected a JSON object, got list"),
        ("a.jsonl", b'{"id": 1, "body": "a"}', "line 1: has no field 'text'; it has id, body. Say which"),
        ("a.jsonl", b"{}", "has no field 'text'; it has none"),
        ("a.jsonl", b'{"text": null}', "line 1: 'text' is NoneType, expected text"),
        ("a.jsonl", rb'{"text": "\ud800"}', "line 1: 'text' is not Unicode text .surrogates not allowed"),
        ("a.json", b"{}", r"\.json files are not read; give \.txt"),
        ("a.CSV", b"text", r"\.csv files are not read"),
    ],
)
def test_malformed_files_say_where(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        texts_of(tmp_path / name)


@pytest.mark.refusal
def test_missing_and_repeated_paths_are_refused_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("words")
    with pytest.raises(CorpusError, match=r"b\.txt: no such file or folder"):
        Documents([path, tmp_path / "b.txt"], "text")
    with pytest.raises(CorpusError, match=r"a\.txt: is given twice"):
        Documents([path, tmp_path / ".." / tmp_path.name / "a.txt"], "text")


@pytest.mark.refusal
def test_folders_that_are_no_corpus_say_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"empty corpus: no \.parquet, .*\.txt file, and no dataset .*save_to_disk"):
        texts_of(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(CorpusError, match="give one of its folders data"):
        texts_of(tmp_path)
    for name in ("a.txt", "b.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(CorpusError, match=r"holds \.jsonl and \.txt files; give the files that are meant"):
        texts_of(tmp_path)


@pytest.mark.refusal
def test_of_a_dataset_with_splits_one_must_be_named(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"text": TEXTS})
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "saved")
    datasets.enable_progress_bars()
    with pytest.raises(
        CorpusError, match=r"saved: holds the splits train, test; give one of them, such as .*saved/train"
    ):
        texts_of(tmp_path / "saved")
    assert texts_of(tmp_path / "saved" / "test") == TEXTS
    for content, message in (
        ("{}", "names no splits"),
        ("[]", "expected a JSON object"),
        ("{", "cannot be read as JSON"),
    ):
        (tmp_path / "saved" / "dataset_dict.json").write_text(content)
        with pytest.raises(CorpusError, match=message):
            texts_of(tmp_path / "saved")


@pytest.mark.refusal
def test_wrong_columns_of_datasets_are_refused(save_dataset: Callable[..., Path], tmp_path: Path) -> None:
    folder = save_dataset({"id": [0, 1, 2], "text": ["a", None, "b"]})
    with pytest.raises(CorpusError, match="saved: has no field 'body'; it has id, text"):
        texts_of(folder, text_field="body")
    with pytest.raises(CorpusError, match="saved, row 2: 'text' is NoneType, expected text"):
        texts_of(folder)
    import datasets

    path = tmp_path / "a.parquet"
    datasets.load_from_disk(folder).to_parquet(path)
    with pytest.raises(CorpusError, match=r"a\.parquet: has no field 'body'; it has id, text"):
        texts_of(path, text_field="body")
    with pytest.raises(CorpusError, match=r"a\.parquet, row 1: 'id' is int, expected text"):
        texts_of(path, text_field="id")


@pytest.mark.refusal
def test_damaged_datasets_are_refused(save_dataset: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"no parquet")
    pytest.importorskip("datasets")
    with pytest.raises(CorpusError, match=r"a\.parquet: cannot be read as Parquet .ArrowInvalid"):
        texts_of(path)
    folder = save_dataset({"text": TEXTS})
    (shard,) = folder.glob("*.arrow")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CorpusError, match="saved: cannot be read as a saved dataset"):
        texts_of(folder)
    shard.unlink()
    with pytest.raises(CorpusError, match=r"saved: cannot be read as a saved dataset \(FileNotFoundError"):
        texts_of(folder)
    for state in ("{}", '{"_data_files": null}', '{"_data_files": [{}]}'):
        (folder / "state.json").write_text(state)
        with pytest.raises(CorpusError, match=r"saved: cannot be read as a saved dataset \((Key|Type)Error"):
            texts_of(folder)


@pytest.mark.refusal
def test_folders_that_cannot_be_opened_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not hold for root, so the system's answer is made up."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.txt").write_text("words")
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CorpusError, match=r"cannot be read \(Permission denied"):
        texts_of(tmp_path)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CorpusError, match=r"a\.txt: cannot be read .Permission denied"):
        texts_of(tmp_path / "a.txt")
