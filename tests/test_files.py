"""Files appear whole or not at all, whoever else writes, whoever is killed, and wherever links lead."""

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from attrgraph.errors import GraphFileError, TranscoderError
from attrgraph.files import locked, whole_folder, write_whole
from attrgraph.transcoders.folder import check_replaceable

# Python 3.12 warns of what only threads could do
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def write(path: Path, text: str = "new", *, overwrite: bool = True) -> None:
    write_whole(path, lambda file: file.write_text(text), overwrite=overwrite)


def anything() -> None:
    """Whatever is there may be replaced."""


def killed(body: Callable[[], object]) -> None:
    """Run this in a process that kills itself at the end, without a chance to clean up."""
    pid = os.fork()
    if pid == 0:
        body()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def kill_oneself(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    killed(lambda: write_whole(tmp_path / "a.json", kill_oneself, overwrite=True))

    def folder() -> None:
        with whole_folder(tmp_path / "b", anything):
            kill_oneself()

    assert len(hidden(tmp_path)) == 1
    killed(folder)  # which removes what the first has left
    (tmp_path / ".attrgraph-at-once").mkdir()  # killed before anything was in it
    assert len(hidden(tmp_path)) == 2
    write(tmp_path / "c.json")
    assert os.listdir(tmp_path) == ["c.json"]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a", anything) as new:
        (new / "part").write_text("half")
        write(tmp_path / "b.json")
        with whole_folder(tmp_path / "c", anything):
            pass
        assert (new / "part").read_text() == "half"
    assert (tmp_path / "a/part").read_text() == "half"
    assert sorted(os.listdir(tmp_path)) == ["a", "b.json", "c"]


@pytest.mark.parametrize("is_asked_first", [False, True])
def test_a_folder_survives_the_death_of_who_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked_first: bool
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/config.yaml").write_text("old")
    rename = Path.rename

    def between(self: Path, target: Path) -> Path:
        return kill_oneself() if self.name == "new" else rename(self, target)  # type: ignore[return-value]

    def replace() -> None:
        monkeypatch.setattr(Path, "rename", between)
        with whole_folder(tmp_path / "a", anything):
            pass

    killed(replace)
    assert not (tmp_path / "a").exists()
    if is_asked_first:  # by who must not overwrite it: the old one is there again, and refused
        with pytest.raises(TranscoderError, match="exists"):
            check_replaceable(tmp_path / "a", overwrite=False)
    write(tmp_path / "b.json")
    assert (tmp_path / "a/config.yaml").read_text() == "old" and hidden(tmp_path) == []


def test_a_folder_survives_an_interrupt_of_who_replaces_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/config.yaml").write_text("old")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "a", anything):
        pass
    assert (tmp_path / "a/config.yaml").read_text() == "old" and hidden(tmp_path) == []


@pytest.mark.refusal
def test_a_folder_that_another_process_has_made_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def theirs() -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a/config.yaml").write_text("theirs")

    def refuse() -> None:
        check_replaceable(tmp_path / "a", overwrite=False)

    with pytest.raises(TranscoderError, match="exists"), whole_folder(tmp_path / "a", refuse):
        theirs()
    rename = Path.rename

    def between(self: Path, target: Path) -> Path:
        if self.name == "new":
            theirs()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", between)
    with pytest.raises(FileExistsError, match="another process"), whole_folder(tmp_path / "a", anything):
        pass
    assert (tmp_path / "a/config.yaml").read_text() == "theirs" and hidden(tmp_path) == []


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(lambda: write_whole(tmp_path / "a.json", kill_oneself, overwrite=True))

    def no_locks(*_: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    write(tmp_path / "b.json")
    assert (tmp_path / "b.json").exists() and len(hidden(tmp_path)) == 1


@pytest.mark.refusal
def test_a_file_that_another_process_has_made_meanwhile_is_kept(tmp_path: Path) -> None:
    def slow(file: Path) -> None:
        file.write_text("mine")
        write(tmp_path / "a.json", "theirs")

    with pytest.raises(GraphFileError, match="exists"):
        write_whole(tmp_path / "a.json", slow, overwrite=False)
    assert (tmp_path / "a.json").read_text() == "theirs" and hidden(tmp_path) == []


def test_a_symbolic_link_stays_and_what_it_names_is_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("there", "not-yet"):
        (tmp_path / name).symlink_to(f"elsewhere/{name}")
    (tmp_path / "elsewhere/there").write_text("old")
    for name in ("there", "not-yet"):
        with pytest.raises(GraphFileError, match="exists"):
            write(tmp_path / name, overwrite=False)
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink() and (tmp_path / "elsewhere" / name).read_text() == "new"


def test_a_link_to_a_folder_stays_and_the_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/config.yaml").write_text("model_kind: transcoder_set")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "nothing").symlink_to("not-yet")
    for name in ("link", "nothing"):
        with pytest.raises(TranscoderError, match="exists"):
            check_replaceable(tmp_path / name, overwrite=False)
        check_replaceable(tmp_path / name, overwrite=True)
        with whole_folder(tmp_path / name, anything) as new:
            (new / "config.yaml").write_text(name)
        assert (tmp_path / name).is_symlink() and (tmp_path / name / "config.yaml").read_text() == name
    assert sorted(os.listdir(tmp_path)) == ["link", "not-yet", "nothing", "real"]


@pytest.mark.refusal
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to-folder").symlink_to("folder")
    os.mkfifo(tmp_path / "pipe")
    cases = {"loop": "leads to itself", "null": "a device or a pipe", "pipe": "a device or a pipe"}
    cases |= {"folder": "is a folder", "to-folder": "is a folder", "no/file": "does not exist"}
    before = sorted(os.listdir(tmp_path))
    for name, message in cases.items():
        with pytest.raises(GraphFileError, match=message):
            write(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_lock_is_given_up_with_its_process(tmp_path: Path) -> None:
    def lock_and_die() -> None:
        with locked(tmp_path / "lock"):
            kill_oneself()

    killed(lock_and_die)
    with locked(tmp_path / "lock"), (tmp_path / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
