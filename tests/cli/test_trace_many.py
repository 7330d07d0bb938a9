"""`attrgraph trace --prompts`: a folder of graphs, resumable."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from subwords import byte_level
from tiny import make_model, make_transcoders

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.errors import PromptError
from attrgraph.prompts.prompt_file import read_prompts
from attrgraph.transcoders import save_transcoders

DALLAS = "in the state containing dallas the capital is"
LINES = (
    json.dumps({"prompt": DALLAS}),
    "",
    json.dumps({"prompt": [999999], "id": "no-ids"}),
    json.dumps({"prompt": DALLAS, "id": "why-houston", "target": "houston"}),
)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


def test_every_line_is_traced_as_if_it_were_alone(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, alone = tmp_path / "graphs", tmp_path / "alone.safetensors"
    arguments = ["trace", "--prompts", str(prompts), "-o", str(folder), "--json", "--max-feature-nodes", "40"]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    told = [json.loads(line) for line in out.splitlines()]
    assert [(row["id"], row["state"], row.get("answer")) for row in told] == [
        ("00001", "traced", "austin"),
        ("no-ids", "failed", None),
        ("why-houston", "traced", "houston"),
    ]
    assert "token id 999999 is outside" in told[1]["reason"] and f"attrgraph: no-ids: {told[1]['reason']}\n" in err
    assert "1 of 3 prompts could not be traced: no-ids." in err
    assert sorted(path.name for path in folder.iterdir()) == [
        ".prompts",
        "00001.safetensors",
        "why-houston.safetensors",
    ]
    assert main(["trace", DALLAS, "-o", str(alone), "--max-feature-nodes", "40"]) == 0
    assert (folder / "00001.safetensors").read_bytes() == alone.read_bytes()


def test_what_is_there_is_not_traced_again(prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts.write_text(LINES[0] + "\n", encoding="utf-8")
    folder = tmp_path / "graphs"
    arguments = ["trace", "--prompts", str(prompts), "-o", str(folder), "--format", ".json", "--max-feature-nodes", "9"]
    assert main(arguments) == 0
    first, told = (folder / "00001.json").stat(), capsys.readouterr().out.rstrip("\n")
    with prompts.open("a", encoding="utf-8") as file:
        file.write(LINES[3] + "\n")
    assert main([*arguments, "--json"]) == 0
    before, now = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (before["state"], before["answer"], now["state"], now["answer"]) == (
        "skipped",
        "austin",
        "traced",
        "houston",
    )
    assert before.keys() == now.keys()
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith(f"{told}  (already traced)\nwhy-houston  houston (")
    assert (folder / "00001.json").stat().st_mtime_ns == first.st_mtime_ns
    # other settings or another prompt of the same name would mix what does not belong together
    assert main([*arguments[:-1], "8"]) == 1
    assert "max_feature_nodes changed" in capsys.readouterr().err
    prompts.write_text(LINES[0].replace("capital", "state") + "\n", encoding="utf-8")
    assert main(arguments) == 1
    assert "00001 changed" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    assert (folder / "00001.json").stat().st_mtime_ns != first.st_mtime_ns


def test_a_prompt_that_failed_may_be_corrected(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["trace", "--prompts", str(prompts), "-o", str(tmp_path / "graphs"), "--max-feature-nodes", "5"]
    assert main(arguments) == 1
    prompts.write_text(
        "\n".join([LINES[0], json.dumps({"prompt": "the capital of texas is", "id": "no-ids"}), LINES[3]]),
        encoding="utf-8",
    )
    assert main(arguments) == 0
    assert (tmp_path / "graphs/no-ids.safetensors").exists()


def test_graphs_of_different_make_never_lie_together(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "graphs"
    arguments = ["trace", "--prompts", str(prompts), "-o", str(folder), "--max-feature-nodes"]
    main([*arguments, "5"])
    capsys.readouterr()
    assert main([*arguments, "5", "--dtype", "float64"]) == 1
    assert "dtype changed" in capsys.readouterr().err
    # forced, and stopped before the first graph: no old one is left that a later run could take for new

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("attrgraph.trace", stop)
        assert main([*arguments, "6", "--force"]) == 130
    assert capsys.readouterr().err == "attrgraph: stopped after 0 of 3 prompts; the same command goes on\n"
    assert [path.name for path in folder.iterdir()] == [".prompts"]
    # a file of that name which no run has written
    (folder / "00001.safetensors").write_text("mine")
    capsys.readouterr()
    assert main([*arguments, "6"]) == 1
    assert "attrgraph: 00001: " in (err := capsys.readouterr().err) and "exists" in err
    assert (folder / "00001.safetensors").read_text() == "mine"


@pytest.mark.refusal
def test_a_bad_line_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = json.dumps({"prompt": DALLAS, "id": "good"}).encode()
    bad = {
        b"{": "is not JSON",
        b"\xff": "is not UTF-8 (byte 0xff at 0)",
        b"[" * 100_000: "is nested too deep",
        b'{"prompt": [[1], [2]]}': "a list has a list",
        b'{"prompt": "a \\ud83d b"}': "half a surrogate pair",
        b'{"prompt": "a", "target": "\\ud83d"}': "half a surrogate pair",
        b'{"prompt": [{"role": "user", "content": "a"}, 3]}': "no chat template",
        b'{"prompt": "' + b"a" * 100_000 + b'"}': "has 100000 characters, the model's context 512 tokens",
        b'{"prompt": [' + b"9" * 999 + b"]}": "token id 999999999999999999999999999999 is outside",
        b'{"prompt": "a", "id": "GOOD"}': "the id 'GOOD' occurs twice, as 'good'",
    }
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([good, *bad]))
    arguments = ["trace", "--prompts", str(path), "-o", str(tmp_path / "graphs"), "--json", "--max-feature-nodes", "5"]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    first, *told = [json.loads(line) for line in out.splitlines()]
    assert (first["id"], first["answer"]) == ("good", "austin")
    assert [row["state"] for row in told] == ["failed"] * len(bad)
    for row, reason in zip(told, bad.values(), strict=True):
        assert reason in row["reason"]
    lines = err.splitlines()
    assert len(lines) == len(bad) + 1 and all(line.startswith("attrgraph: ") and len(line) < 400 for line in lines)
    assert lines[-1].startswith("attrgraph: 10 of 11 prompts could not be traced: 00002, ")


def test_an_error_of_any_kind_stops_no_other_prompt(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = ag.trace

    def out_of_memory(model: ag.LanguageModel, prompt: Any, **how: Any) -> ag.Graph:
        if prompt == [999999]:
            raise RuntimeError("CUDA out of memory.\nTried to allocate")
        return trace(model, prompt, **how)

    monkeypatch.setattr("attrgraph.trace", out_of_memory)
    assert main(["trace", "--prompts", str(prompts), "-o", str(tmp_path / "graphs"), "--max-feature-nodes", "5"]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err.startswith("attrgraph: no-ids: RuntimeError: CUDA out of memory.\\nTried to allocate\n")


def test_runs_into_one_folder_at_the_same_time_all_succeed(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts.write_text("\n".join(json.dumps({"prompt": DALLAS, "id": f"p{i}"}) for i in range(3)), encoding="utf-8")
    graph, together = ag.trace(ag.load_model("demo"), DALLAS, max_feature_nodes=5), threading.Barrier(2)

    def at_the_same_time(*_: object, **__: object) -> ag.Graph:
        together.wait(20)
        return graph

    monkeypatch.setattr("attrgraph.trace", at_the_same_time)
    arguments = ["trace", "--prompts", str(prompts), "-o", str(tmp_path / "graphs"), "--max-feature-nodes", "5"]
    codes = list[int]()
    runs = [threading.Thread(target=lambda: codes.append(main(arguments))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert codes == [0, 0]
    assert sorted(os.listdir(tmp_path / "graphs")) == [".prompts", *(f"p{i}.safetensors" for i in range(3))]


def test_a_table_whose_second_file_is_missing_is_written_again(prompts: Path, tmp_path: Path) -> None:
    prompts.write_text(LINES[0] + "\n", encoding="utf-8")
    folder = tmp_path / "graphs"
    arguments = ["trace", "--prompts", str(prompts), "-o", str(folder), "--format", ".csv", "--max-feature-nodes", "5"]
    assert main(arguments) == 0
    (folder / "00001.csv").unlink()  # as if the run had been killed between the two
    assert main(arguments) == 0 and (folder / "00001.csv").exists()


Damage = Callable[[Path], object]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "gone": (lambda file: file.unlink(), "traced"),
    "emptied": (lambda file: file.write_bytes(b""), "failed"),
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:-1]), "failed"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "failed"),
    "a link to nothing": (lambda file: (file.unlink(), file.symlink_to("nothing")), "failed"),
}


@pytest.mark.parametrize(("damage", "state"), DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", ["00001.csv", "00001.nodes.csv"])
def test_only_whole_files_count_as_done(
    name: str, damage: Damage, state: str, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts.write_text(LINES[0] + "\n", encoding="utf-8")
    folder = tmp_path / "graphs"
    arguments = ["trace", "--prompts", str(prompts), "-o", str(folder), "--format", ".csv", "--max-feature-nodes", "5"]
    assert main(arguments) == 0
    content = (folder / name).read_bytes()
    damage(folder / name)
    capsys.readouterr()
    assert main([*arguments, "--json"]) == (state == "failed")
    out = capsys.readouterr().out
    told = json.loads(out)
    assert told["state"] == state and name in told["reason"]
    if state == "traced":
        assert (folder / name).read_bytes() == content
        assert main(arguments) == 0 and "(already traced)" in capsys.readouterr().out
    else:
        assert "is not as it was written" in told["reason"] and "--force" in told["reason"]


@pytest.mark.parametrize("name", ["answer", "probability", "digest"])
def test_a_record_that_was_changed_does_not_count(
    name: str, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts.write_text(LINES[0] + "\n", encoding="utf-8")
    folder = tmp_path / "graphs"
    arguments = ["trace", "--prompts", str(prompts), "-o", str(folder), "--max-feature-nodes", "5"]
    assert main(arguments) == 0
    told, content = capsys.readouterr().out.rstrip("\n"), (folder / "00001.safetensors").read_bytes()
    path = folder / ".prompts/00001.json"
    record = json.loads(path.read_text())
    answer = record["answer"]
    path.write_text(
        json.dumps(
            {
                **record,
                **{
                    "answer": {"answer": {}},
                    "probability": {"answer": {**answer, "probability": answer["probability"] / 2}},
                    "digest": {"digest": "0" * 64},
                }[name],
            }
        )
    )
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{told}  (traced again: its record was damaged)\n"
    assert (folder / "00001.safetensors").read_bytes() == content
    assert main(arguments) == 0 and "(already traced)" in capsys.readouterr().out


def test_what_another_tokenizer_or_other_points_would_change_is_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, transcoders, path = tmp_path / "model", tmp_path / "set", tmp_path / "prompts.jsonl"
    hf_model = make_model("llama")
    hf_model.hf_model.save_pretrained(model)
    byte_level("<s>", bos="<s>").save_pretrained(model)
    save_transcoders(make_transcoders(cross_layer=False), transcoders)
    path.write_text(json.dumps({"prompt": [1, 5, 7]}))
    arguments = ["trace", "--prompts", str(path), "-o", str(tmp_path / "graphs"), "--model", str(model)]
    arguments += ["--transcoders", str(transcoders), "--max-feature-nodes", "5", "--allow-inexact"]
    assert main(arguments) == 0 == main(arguments)
    monkeypatch.chdir(tmp_path)  # another spelling of the same folders
    elsewhere = {str(model): "./model", str(transcoders): "set/"}
    capsys.readouterr()
    assert main([elsewhere.get(argument, argument) for argument in arguments]) == 0
    assert "(already traced)" in capsys.readouterr().out
    byte_level("<s>", bos="<s>", template="{{ messages }}").save_pretrained(model)
    capsys.readouterr()
    assert main(arguments) == 1 and "(tokenizer changed)" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0 == main([*arguments, "--read-point", "hook_resid_mid"])
    for option, name in (("--read-point", "mlp.hook_in"), ("--write-point", "mlp.hook_out")):
        assert main([*arguments, option, name]) == 1
        assert f"({option[2:].replace('-', '_')} changed)" in capsys.readouterr().err
    (tmp_path / "graphs/.prompts/.made-by.json").unlink()  # a record that is lost does not make everything right
    assert main(arguments) == 1 and "its record of traced prompts cannot be read" in capsys.readouterr().err


def test_a_chat_template_takes_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, transcoders, path = tmp_path / "model", tmp_path / "set", tmp_path / "prompts.jsonl"
    hf_model = make_model("llama")
    hf_model.hf_model.save_pretrained(model)
    byte_level("<s>", bos="<s>", template="{{ 'A' if short else '!' }}").save_pretrained(model)
    save_transcoders(make_transcoders(cross_layer=False), transcoders)
    path.write_text(json.dumps({"prompt": [{"role": "user", "content": ""}]}))
    arguments = ["trace", "--prompts", str(path), "-o", str(tmp_path / "graphs"), "--model", str(model)]
    arguments += ["--transcoders", str(transcoders), "--max-feature-nodes", "5", "--allow-inexact"]
    assert main([*arguments, "--prepend", "none", "--chat-template-kwargs", '{"short": true}']) == 0
    assert ag.load_graph(tmp_path / "graphs/00001.safetensors").prompt_tokens == ["A"]
    capsys.readouterr()
    assert main([*arguments, "--prepend", "none", "--chat-template-kwargs", '{"short": false}']) == 1
    assert "(chat_template_kwargs changed)" in capsys.readouterr().err
    assert main([*arguments, "--chat-template-kwargs", "short"]) == 1
    assert "--chat-template-kwargs is 'short'; expected JSON such as" in capsys.readouterr().err


def test_separators_inside_a_prompt_end_no_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b"}, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert [row.prompt for row in read_prompts(path)] == ["a\u2028b"]


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either a prompt or --prompts"),
        ([DALLAS, "--prompts", "FILE", "-o", "x"], "give either a prompt or --prompts"),
        (["--prompts", "FILE"], "needs one -o, a folder"),
        (["--prompts", "FILE", "-o", "x", "--target", "austin"], "targets and token ids stand in the file"),
        (["--prompts", "FILE", "-o", "x", "--format", ".exe"], "--format: unknown ending '.exe'"),
        (["--prompts", "FILE", "-o", "x", "--profile", "nonsense"], "unknown JSON profile 'nonsense'"),
        (["--prompts", "missing.jsonl", "-o", "x"], "missing.jsonl: cannot be read"),
    ],
)
def test_wrong_calls_are_refused(
    arguments: list[str], message: str, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"FILE": str(prompts), "x": str(tmp_path / "x")}
    assert main(["trace", *(places.get(argument, argument) for argument in arguments)]) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.replace("│", "").split())
    assert not (tmp_path / "x").exists()


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "line 1: is not JSON"),
        ('["a"]', "line 1: expected an object"),
        ('{"prompt": "a", "tgt": "b"}', "line 1: expected an object"),
        ('{"prompt": "a", "prompt": "b"}', "a key is there twice"),
        ('{"prompt": 3}', "the prompt is 3"),
        ('{"prompt": "a", "id": "../b"}', "the id '../b' names a file"),
        ('{"prompt": "a", "id": true}', "the id True names a file"),
        ('{"prompt": "a", "id": "b"}\n\n{"prompt": "c", "id": "b"}', "line 3: the id 'b' occurs twice."),
        ('{"prompt": "a", "target": []}', "the target is []"),
        ('{"prompt": "a", "target": 1.5}', "the target is 1.5"),
    ],
)
def test_unusable_lines_have_a_fault(text: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text, encoding="utf-8")
    assert fault in read_prompts(path)[-1].fault


@pytest.mark.refusal
def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "no-prompts").write_text("{\n" * 20_000)
    for name, message in {
        "empty": "holds no prompt",
        "pipe": "is no regular file",
        "nowhere": "cannot be read",
        "no-prompts": "line 1: is not JSON .* 10,000 lines cannot be used; expected a JSON object a line",
    }.items():
        with pytest.raises(PromptError, match=message):
            read_prompts(tmp_path / name)


def test_trace_many_is_trace_of_each() -> None:
    model = ag.load_model("demo")
    graphs = ag.trace_many(model, [DALLAS, "paris is"], max_feature_nodes=20)
    first = next(graphs)
    expected = ag.trace(model, DALLAS, max_feature_nodes=20)
    assert first.nodes.equals(expected.nodes) and first.metadata == expected.metadata
    bad = ag.trace_many(model, [DALLAS, ""])
    next(bad)
    with pytest.raises(PromptError, match="prompt 1: the prompt is empty"):
        next(bad)
