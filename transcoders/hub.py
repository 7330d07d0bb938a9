"""Where files come from: a local folder, or a Hugging Face hub repository at a resolved revision."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attrgraph.errors import AttrGraphError
from attrgraph.files import put_back

_SNAPSHOT_COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})(?:/|$)")


def resolve_folder(
    name: str, *, revision: str | None, patterns: list[str], error: type[AttrGraphError], may_lack: bool = False
) -> tuple[Path, dict[str, str]]:
    """A folder with the files, and where it came from: its name; of the hub its commit, and the revision asked for.

    Args:
        name: path of a folder, or `owner/repo[/subfolder][@revision]` on the hub.
        revision: branch, tag or commit on the hub; overrides one in `name`.
        patterns: which files of a hub repository to fetch.
        error: what to raise if there is no such folder or repository.
        may_lack: whether a repository may have no file of the patterns in the subfolder.
    """
    folder = Path(name).expanduser()
    if not folder.exists():
        put_back(folder)
    if name and folder.is_dir():
        if revision is not None:
            raise error(f"{name}: a folder has no revision {revision!r}; revisions are for names on the hub.")
        return folder, {"id": str(name)}
    repo, _, pinned = name.partition("@")
    parts = repo.split("/")
    if folder.is_absolute() or len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise error(f"{name}: no such folder; give a folder, or owner/repo on the Hugging Face hub.")
    subfolder = "/".join(parts[2:])
    prefix = f"{subfolder}/" if subfolder else ""
    of = "/".join(parts[:2])
    with _hub_errors(f"{name}: no such folder, and not found on the Hugging Face hub", error):
        from huggingface_hub import snapshot_download

        patterns = [prefix + pattern for pattern in patterns]
        root = snapshot_download(of, revision=revision or pinned or None, allow_patterns=patterns)
    if not may_lack and not (Path(root) / subfolder).is_dir():
        shown, more = ", ".join(patterns[:6]), " ..." if len(patterns) > 6 else ""
        raise error(
            f"{name}: {of} on the hub has no {shown}{more}; expected some of them: its folders are listed at "
            f"https://huggingface.co/{of}/tree/{revision or pinned or 'main'}."
        )
    commit, asked = _SNAPSHOT_COMMIT.search(root.replace("\\", "/")), revision or pinned
    source = {"id": repo, "revision": commit.group(1) if commit else asked}
    return Path(root) / subfolder, source | ({"asked_revision": asked} if asked else {})


def fetch_uri(uri: str, *, beside: Iterable[str] = (), error: type[AttrGraphError]) -> Path:
    """The local copy of one file named `hf://owner/repo/path[?revision=...]`.

    Args:
        uri: its name.
        beside: files of its folder that are fetched too, if they exist.
        error: what to raise if it is not there.
    """
    repo, path, revision = split_uri(uri, error=error)
    with _hub_errors(f"{uri}: not found on the Hugging Face hub", error):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        for name in beside:
            with suppress(EntryNotFoundError):
                hf_hub_download(repo, str(Path(path).with_name(name)), revision=revision)
        return Path(hf_hub_download(repo, path, revision=revision))


def split_uri(uri: str, *, error: type[AttrGraphError]) -> tuple[str, str, str | None]:
    """Repository, path and revision of `hf://owner/repo/path[?revision=...]`."""
    location, _, query = uri.removeprefix("hf://").partition("?")
    owner, repo, path = (*location.split("/", 2), "", "")[:3]
    revision = query.removeprefix("revision=") or None
    if not all(
        owner and part not in ("", ".", "..") for part in (repo, *path.split("/"), *(revision or "main").split("/"))
    ):
        raise error(f"{uri}: names no file on the hub; expected hf://owner/repo/path[?revision=...].")
    return f"{owner}/{repo}", path, revision


@contextmanager
def _hub_errors(message: str, error: type[AttrGraphError]) -> Iterator[None]:
    """Turn what a download raises into `error`."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as e:
        raise error(f"{message} ({type(e).__name__}); check the name, the network, or HF_TOKEN.") from e
