"""Documents become rows: nothing is lost, nothing is mixed, and a document's split depends on its text alone."""

import hashlib
import json
import random
from pathlib import Path

import pytest
import torch
from tiny import BOS, D_VOCAB, make_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import attrgraph as ag
from attrgraph.data.corpus import TokenRows, is_held_out, read_corpus, split_rows
from attrgraph.errors import CorpusError
from attrgraph.models.language_model import LanguageModel

SHARE = 0.3


def word_model(*, n_words: int = D_VOCAB, has_bos: bool = True, bos: int = BOS) -> LanguageModel:
    """A tiny model whose words are w2, w3, ...; token 0 is <unk>."""
    words = {f"w{i}": i for i in range(1, n_words) if i != bos} | {"<unk>": 0, "<bos>": bos}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<bos>"} if has_bos else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **special)
    return LanguageModel(make_model("llama").hf_model, tokenizer)


def random_documents(n_documents: int, *, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(2, D_VOCAB)}" for _ in range(rng.randint(1, 200))) for _ in range(n_documents)]


def write(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(document + "\n" for document in documents), encoding="utf-8")
    return path


def texts_of(model: LanguageModel, rows: TokenRows) -> list[str]:
    """The documents, put together again from their rows."""
    pieces: list[list[str]] = [[] for _ in range(rows.n_documents)]
    n_in_front = 0 if model.bos_token_id is None else 1
    for row, document in zip(rows.rows, rows.document, strict=True):
        pieces[document].append(model.tokenizer.decode(row[n_in_front:]))
    return [" ".join(of_document) for of_document in pieces]


@pytest.mark.parametrize("has_bos", [True, False])
@pytest.mark.parametrize("max_row_length", [None, 2, 7])
def test_rows_reassemble_to_the_documents(tmp_path: Path, max_row_length: int | None, has_bos: bool) -> None:
    documents = random_documents(30)
    model = word_model(has_bos=has_bos)
    rows = read_corpus(model, [write(tmp_path / "a.txt", documents)], max_row_length=max_row_length)
    assert texts_of(model, rows) == documents
    assert rows.document == sorted(rows.document) and rows.n_documents == len(documents)
    # where no BOS is put in front, the first word of each row stands in its place
    assert rows.n_tokens == sum(len(document.split()) for document in documents) - (0 if has_bos else len(rows.rows))
    longest = max_row_length or model.n_context
    assert max(len(row) for row in rows.rows) == longest
    assert all(row.dtype == torch.int64 and row.device.type == "cpu" for row in rows.rows)
    assert all((int(row[0]) == BOS) is has_bos for row in rows.rows)


def test_only_the_last_row_of_a_document_is_short(tmp_path: Path) -> None:
    rows = read_corpus(word_model(), [write(tmp_path / "a.txt", random_documents(30))], max_row_length=9)
    for row, document, following in zip(rows.rows, rows.document, [*rows.document[1:], None], strict=True):
        assert len(row) == 9 or document != following


def test_bos_that_the_text_spells_out_is_not_doubled(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", ["<bos> w5 w6", "<bos>", "w7"])
    rows = read_corpus(word_model(), [path])
    assert [row.tolist() for row in rows.rows] == [[BOS, 5, 6], [BOS, 7]]
    assert rows.n_documents == 2 and rows.n_tokens == 3


def test_a_tokenizer_that_truncates_by_default_does_not_here(tmp_path: Path) -> None:
    model = word_model()
    model.tokenizer.backend_tokenizer.enable_truncation(3)
    model.tokenizer.backend_tokenizer.enable_padding(length=500)
    documents = random_documents(5)
    assert texts_of(model, read_corpus(model, [write(tmp_path / "a.txt", documents)])) == documents


def test_documents_in_many_batches_stay_in_order(tmp_path: Path) -> None:
    documents = [f"w{2 + i % 40} " * 40_000 + f"w{2 + i // 2}" for i in range(20)]  # three million characters
    rows = read_corpus(word_model(), [write(tmp_path / "a.txt", documents)])
    ends = [i for i, document in enumerate(rows.document) if document != ([*rows.document[1:], None])[i]]
    assert [int(rows.rows[i][-1]) for i in ends] == [2 + i // 2 for i in range(20)]
    assert rows.n_tokens == 20 * 40_001


def test_the_shipped_demo_reads_text(tmp_path: Path) -> None:
    model = ag.load_model("demo")
    rows = read_corpus(model, [write(tmp_path / "a.txt", ["In the state containing Dallas", "the capital is"])])
    assert texts_of(model, rows) == ["in the state containing dallas", "the capital is"]


# -- splits ------------------------------------------------------------------------------------------------------------


def test_splits_partition_the_corpus(tmp_path: Path) -> None:
    documents, model = random_documents(200), word_model()
    path = write(tmp_path / "a.txt", documents)
    train, held_out = (
        texts_of(model, read_corpus(model, [path], split=split, held_out_share=SHARE))
        for split in ("train", "held-out")
    )
    assert sorted(train + held_out) == sorted(documents)
    assert train == [d for d in documents if d in train]  # the order of the file
    # 200 draws with p = 0.3 have a standard deviation of 0.032
    assert abs(len(held_out) / len(documents) - SHARE) < 4 * 0.033


def test_a_document_is_on_the_same_side_in_every_file_and_order(tmp_path: Path) -> None:
    documents, model = random_documents(60), word_model()
    plain = write(tmp_path / "a.txt", documents)
    shuffled = random.Random(1).sample(documents, len(documents))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"body": d}) + "\r\n" for d in shuffled))
    one = read_corpus(model, [plain], split="held-out", held_out_share=SHARE)
    other = read_corpus(model, [tmp_path / "b.jsonl"], split="held-out", held_out_share=SHARE, text_field="body")
    assert sorted(texts_of(model, one)) == sorted(texts_of(model, other))
    by_hash = [d for d in documents if int(hashlib.sha256(d.encode()).hexdigest()[:16], 16) / 2**64 < SHARE]
    assert texts_of(model, one) == by_hash


def test_duplicates_land_on_the_same_side(tmp_path: Path) -> None:
    documents, model = random_documents(20), word_model()
    paths = [write(tmp_path / name, documents) for name in ("a.txt", "b.txt")]
    for split in ("train", "held-out"):
        texts = texts_of(model, read_corpus(model, paths, split=split, held_out_share=SHARE))
        assert texts == 2 * texts[: len(texts) // 2] and texts


def test_a_larger_share_only_adds_documents() -> None:
    contents = [str(i).encode() for i in range(500)]
    small, large = ({c for c in contents if is_held_out(c, share)} for share in (0.1, 0.2))
    assert small < large
    assert not any(is_held_out(c, 0.0) for c in contents)


def test_max_documents_are_read_before_they_are_split(tmp_path: Path) -> None:
    documents, model = random_documents(50), word_model()
    path = write(tmp_path / "a.txt", documents)
    sides = [
        texts_of(model, read_corpus(model, [path], split=split, held_out_share=SHARE, max_documents=20))
        for split in ("train", "held-out")
    ]
    assert sorted(sides[0] + sides[1]) == sorted(documents[:20])


def test_rows_split_by_their_ids_as_documents_do_by_their_text() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(2, D_VOCAB, (5,), generator=generator) for _ in range(100)]
    document = [i // 2 for i in range(100)]  # two rows each
    whole = TokenRows([*rows, *rows[:2]], [*document, 50, 50], {"here": "digest"})
    train, held_out = split_rows(whole, SHARE)
    assert train.n_documents + held_out.n_documents == 51 and held_out.n_documents > 5
    assert len(train.rows) + len(held_out.rows) == 102
    assert train.sources == held_out.sources == whole.sources
    for side in (train, held_out):
        assert side.document == [i // 2 for i in range(len(side.rows))]
    kept = [[row.tolist() for row in side.rows] for side in (train, held_out)]
    first = rows[0].tolist()
    assert sorted((kept[0].count(first), kept[1].count(first))) == [0, 2]  # document 50 repeats document 0
    alone = split_rows(TokenRows(rows[:40], document[:40], {}), SHARE)[1]
    assert [row.tolist() for row in alone.rows] == [r.tolist() for r in rows[:40] if r.tolist() in kept[1]]


# -- what rows know about themselves ---------------------------------------------------------------------------------


def test_first_tokens_are_whole_rows() -> None:
    rows = TokenRows([torch.arange(4), torch.arange(3), torch.arange(9)], [0, 0, 1], {"here": "digest"})
    assert [rows.first_tokens(n).n_tokens for n in (1, 3, 4, 5, 6, 100)] == [3, 3, 5, 5, 13, 13]
    assert rows.first_tokens(3).document == [0] and rows.first_tokens(3).sources == rows.sources
    assert rows.first_tokens(0).n_documents == 0


def test_digest_tells_apart_what_sources_do_not(tmp_path: Path) -> None:
    model, path = word_model(), write(tmp_path / "a.txt", random_documents(40))
    settings = [{}, {"max_row_length": 9}, {"split": "train"}, {"split": "train", "held_out_share": SHARE}]
    corpora = [read_corpus(model, [path], **setting) for setting in settings]
    assert len({str(rows.sources) for rows in corpora}) == 1
    assert len({rows.digest() for rows in corpora}) == 4
    assert read_corpus(model, [path]).digest() == corpora[0].digest()
    assert (
        TokenRows([torch.tensor([1, 2])], [0], {}).digest()
        != TokenRows([torch.tensor([1]), torch.tensor([2])], [0, 0], {}).digest()
    )


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "split is 'test'; expected one of train, held-out, all"),
        ({"held_out_share": 1.0}, r"held_out_share is 1\.0; expected at least 0 and less than 1"),
        ({"held_out_share": -0.1}, "held_out_share is -0.1"),
        ({"max_documents": 0}, "max_documents is 0"),
        ({"max_row_length": 1}, "max_row_length is 1; expected 2 to 64, the model's context"),
        ({"max_row_length": 65}, "max_row_length is 65"),
        ({"split": "held-out", "held_out_share": 0.0}, "has 3 documents, and none .* in the held-out split .*a larger"),
        ({"split": "train", "held_out_share": 0.9999}, "has 3 documents, and none .* in the train split .*a smaller"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    path = write(tmp_path / "a.txt", random_documents(3))
    with pytest.raises(CorpusError, match=message):
        read_corpus(word_model(), [path], **settings)


@pytest.mark.refusal
def test_a_corpus_without_documents_or_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"empty corpus: no document with text was found \(no file\)"):
        read_corpus(word_model(), [])
    with pytest.raises(CorpusError, match=r"empty corpus: no document with text was found .*a\.txt"):
        read_corpus(word_model(), [write(tmp_path / "a.txt", ["", "  ", "\t"])])
    with pytest.raises(CorpusError, match="empty corpus: none of its 2 documents has a token"):
        read_corpus(word_model(), [write(tmp_path / "b.txt", ["<bos>"] * 2)])


@pytest.mark.refusal
def test_a_side_without_rows_is_refused() -> None:
    rows = TokenRows([torch.tensor([BOS, 5])], [0], {})
    with pytest.raises(CorpusError, match="has 1 documents, and none of them is in the held-out split"):
        split_rows(rows, 0.0)
    with pytest.raises(CorpusError, match="held_out_share is 1"):
        split_rows(rows, 1.0)


@pytest.mark.refusal
def test_that_documents_are_all_the_same_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", ["w5 w6"] * 30)
    message = "has 30 documents, of which only 1 differ, and none of them is in the held-out split .*equal ones stay"
    with pytest.raises(CorpusError, match=message):
        read_corpus(word_model(), [path], split="held-out")
    rows = TokenRows([torch.tensor([BOS, 5])] * 30, list(range(30)), {})
    with pytest.raises(CorpusError, match=message):
        split_rows(rows, 0.05)


@pytest.mark.refusal
def test_wrong_tokenizers_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", ["w5 w6 w60 w7"])
    with pytest.raises(CorpusError, match="has no tokenizer"):
        read_corpus(make_model("llama"), [path])
    with pytest.raises(CorpusError, match="gave token id 60, the model's vocabulary ends at 49; is it another"):
        read_corpus(word_model(n_words=99), [path])
    with pytest.raises(CorpusError, match="gave token id 98, the model's vocabulary ends at 49"):
        read_corpus(word_model(n_words=99, bos=98), [path])
    with pytest.raises(CorpusError, match=r"25% of the corpus's tokens are <unk>.*does not seem to fit the text"):
        read_corpus(word_model(), [path])


def test_a_few_unknown_tokens_are_accepted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", ["w5 w6 what w7 w8"])
    assert read_corpus(word_model(), [path]).rows[0].tolist() == [BOS, 5, 6, 0, 7, 8]
