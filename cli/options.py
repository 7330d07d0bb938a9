"""Options that several verbs have, and groups of options that verbs take as one value.

An option is declared as `Annotated[type, "METAVAR", "help"]`; its names follow if they are not its parameter's, and a
dictionary of its bounds, `min` and `max`. Flags and arguments are `Annotated[type, flag(...)]` and `argument(...)`.
"""

import gc
import inspect
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

import attrgraph as ag
from attrgraph.cli.output import tell
from attrgraph.cli.stopping import leaving
from attrgraph.errors import PromptError, TranscoderError


def flag(help: str, *names: str) -> Any:
    """An option without a value."""
    return typer.Option(*names, help=help)


def argument(metavar: str, help: str) -> Any:
    """A value without a name."""
    return typer.Argument(metavar=metavar, help=help)


def share(help: str) -> Any:
    """An option whose value is from 0 to 1."""
    return typer.Option(metavar="SHARE", help=help, min=0, max=1)


def output(help: str, metavar: str = "FILE") -> Any:
    """The option that says where results are written."""
    return typer.Option("-o", "--output", metavar=metavar, help=help)


Prompt = Annotated[str, argument("PROMPT", "Text; with --ids, token ids.")]
GraphFile = Annotated[Path, argument("GRAPH", "A graph file: .safetensors or .json.")]
Nodes = Annotated[list[str] | None, "NODE"]
AsJson = Annotated[bool, flag("Print the result as JSON.", "--json")]
AsCsv = Annotated[bool, flag("Print the result as CSV.", "--csv")]
Force = Annotated[bool, flag("Overwrite existing outputs.", "--force")]
Profile = Annotated[str, "NAME", "Of JSON: neuronpedia, circuit-tracer or anthropic."]
Top = Annotated[int, "N", "Rows of the table.", {"min": 0}]
MemoryBudget = Annotated[str | None, "SIZE", "For edges or batches, such as 8G. Default: half of what is free."]
Online = Annotated[bool, flag("Ask Neuronpedia for names of features that have none.", "--online")]
Align = Annotated[str, "WAY", "Positions are counted from the end or from the start."]
Mode = Annotated[str, "MODE", "How much may respond: frozen, frozen-attention, constrained or free."]
UptoLayer = Annotated[
    int | None, "LAYER", "Mode constrained: MLPs are held up to this layer. Default: the highest layer that you change."
]
Labels = Annotated[
    list[Path] | None,
    "FILE",
    "Names of features: JSON, CSV, Neuronpedia's or circuit-tracer's files, a graph. Repeatable; a later one's win.",
]
Model = Annotated[str, argument("MODEL", "demo, a folder, or owner/repo.")]
Revision = Annotated[str | None, "NAME", "Branch, tag or commit of the model on the hub."]
ReadPoint = Annotated[
    str | None, "HOOK", "Where transcoders read, if their folder does not say it, such as mlp.hook_in."
]
WritePoint = Annotated[
    str | None, "HOOK", "Where they write, if their folder does not say it: hook_mlp_out or mlp.hook_out."
]
AllowMissingLayers = Annotated[
    bool,
    flag("Take a set that lacks layers: what their MLPs write is error.", "--allow-missing-layers"),
]
Dtype = Annotated[str, "DTYPE", "float32, float64, bfloat16 or float16."]
Device = Annotated[str, "DEVICE", "auto, cpu, cuda or cuda:N."]
TEXT_HELP = "Text (a document a line), JSON lines, Parquet, or a Hugging Face datasets folder. Repeatable."
TextField = Annotated[str, "NAME", "Where documents are records: the field with the text."]


@dataclass(frozen=True)
class ModelOptions:
    """Which model to load, and how.

    Raises:
        TranscoderError: a model whose transcoders are not known.
    """

    model: Annotated[str | None, "MODEL", "demo, a folder, or owner/repo. Default: demo."] = None
    transcoders: Annotated[
        str | None, "NAME", "demo, demo-per-layer, a folder, or owner/repo. Default for the demo: demo."
    ] = None
    dtype: Annotated[str | None, "DTYPE", "float32, float64, bfloat16 or float16. Default: float32."] = None
    device: Annotated[str | None, "DEVICE", "auto, cpu, cuda or cuda:N. Default: auto."] = None
    revision: Revision = None
    read_point: ReadPoint = None
    write_point: WritePoint = None
    allow_missing_layers: AllowMissingLayers = False
    labels: Labels = None

    def __post_init__(self) -> None:
        self.need_transcoders()

    def need_transcoders(self) -> None:
        """Raise TranscoderError unless the transcoders are known."""
        if self.model not in (None, "demo") and self.transcoders is None:
            from attrgraph.transcoders.known_sets import known_for

            raise TranscoderError(
                f"{self.model}: name its transcoders with --transcoders (a folder, or owner/repo on the hub"
                f"{known_for(self.model)})."
            )

    def load(self, graph: "ag.Graph | None" = None, *, template: str | None = None) -> "ag.LanguageModel":
        """The model that the options name, or else the one that the graph was traced on.

        Args:
            graph: what `GraphModelOptions` are for.
            template: JSON of arguments of the chat template.
        """
        if graph is None or self.model is not None:
            traced_in = None if graph is None else graph.metadata.get("dtype")
            return load_model(
                model="demo" if self.model is None else self.model,
                transcoders=self.transcoders,
                dtype=traced_in or "float32" if self.dtype is None else self.dtype,
                device="auto" if self.device is None else self.device,
                revision=self.revision,
                read_point=self.read_point,
                write_point=self.write_point,
                allow_missing_layers=self.allow_missing_layers,
                labels=tuple(self.labels or ()),
                template=template,
            )
        from attrgraph.attribution.provenance import origin_of
        from attrgraph.graph.origin import check_traced_model

        model = load_model(**origin_of(graph))
        check_traced_model(graph, model)
        return model


@dataclass(frozen=True)
class AnyModelOptions(ModelOptions):
    """The same for what can do without transcoders; it asks for them itself."""

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True)
class GraphModelOptions(ModelOptions):
    """The same where a graph may say which model it was traced on."""

    model: Annotated[
        str | None, "MODEL", "demo, a folder, or owner/repo. Default: the graph's; for a prompt, demo."
    ] = None
    dtype: Annotated[
        str | None, "DTYPE", "float32, float64, bfloat16 or float16. Default: the graph's; for a prompt, float32."
    ] = None

    def check_with_graph(self) -> None:
        """Raise BadParameter for options that say nothing where a graph names the model."""
        if self.model is None and self != GraphModelOptions():
            raise typer.BadParameter("with a graph, options of a model need a --model.")


@dataclass(frozen=True)
class NamedGraph:
    """Names for the features of a graph that is read."""

    labels: Labels = None
    online: Online = False

    def load(self, path: Path, graph: "ag.Graph | None" = None) -> "ag.Graph":
        """The graph of the file, or the given one, with the names; what is to be said of them is a line on stderr."""
        graph = ag.load_graph(path) if graph is None else graph
        if not (self.labels or self.online):
            return graph
        named = ag.name_features(graph, *(self.labels or ()), online=self.online)
        for note in named.metadata.get("notes", [])[len(graph.metadata.get("notes", [])) :]:
            tell(f"attrgraph: {path}: {note}")
        return named


@dataclass(frozen=True)
class PromptOptions:
    """How a prompt is read, and at which of its positions no features are looked for.

    Raises:
        PromptError: positions that are no numbers.
    """

    ids: Annotated[bool, flag("The prompt is token ids, separated by spaces or commas.", "--ids")] = False
    prepend: Annotated[
        str, "TOKEN", "Put in front of a prompt that lacks it: auto (the tokenizer's BOS), none, or a token."
    ] = "auto"
    skip_positions: Annotated[
        str, "WHICH", "Positions without features: auto (BOS and attention sinks), none, or such as 0,-1."
    ] = "auto"

    def read(self, prompt: str) -> str | list[int]:
        """Text, or the token ids that it spells.

        Raises:
            PromptError: it is the name of a file, which is not read.
        """
        if not self.ids and os.path.isfile(prompt):
            raise PromptError(
                f"the prompt {prompt!r:.60} is the name of a file. Give the text itself; files of prompts are read by "
                "`attrgraph trace --prompts FILE`, graphs by `query` or `validate`."
            )
        return numbers(prompt, "--ids", "token ids") if self.ids else _as_utf8(prompt)

    def how(self) -> dict[str, Any]:
        """Arguments of `attrgraph.trace` and its like."""
        return {"prepend": self.prepend, "skip_positions": positions(self.skip_positions)}


def positions(which: str) -> str | list[int]:
    """What --skip-positions says."""
    return which if which in ("auto", "none") else numbers(which, "--skip-positions", "positions")


def template_arguments(text: str | None) -> str | None:
    """What --chat-template-kwargs says, checked."""
    try:
        is_right = text is None or isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        is_right = False
    if not is_right:
        raise PromptError(
            f'--chat-template-kwargs is {text!r:.60}; expected JSON such as {{"enable_thinking": false}}.'
        )
    return text


def count(text: str) -> int:
    """A number of things such as 2000, 500K or 2M."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMG]?)", text.strip().upper())
    n = int(float(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[match[2]]) if match else 0
    if n < 1:
        raise typer.BadParameter(f"got {text!r}; expected a number such as 2000, 500K or 2M.", param_hint="--tokens")
    return n


def load_model(model: str, transcoders: str | None = None, **how: Any) -> "ag.LanguageModel":
    """`attrgraph.load_model`, which a shell does only once as long as the files stay the same."""
    loaded = _load(_stamp(model), _stamp(transcoders), model=model, transcoders=transcoders, **how)
    collect_again()
    return loaded


def collect_again() -> None:
    """Turn on the garbage collection that `attrgraph.cli.main.run` turned off; what was imported is left alone."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


@lru_cache(maxsize=2)
def _load(*stamps: tuple[Any, ...], template: str | None = None, **how: Any) -> "ag.LanguageModel":
    return ag.load_model(**how, chat_template_kwargs=None if template is None else json.loads(template))


def _stamp(name: str | None) -> tuple[Any, ...]:
    """What changes if a file of a folder does."""
    folder = Path(name or "").expanduser()
    if name is None or not folder.is_dir():
        return ()
    files = [file for file in sorted(folder.rglob("*")) if file.exists()]  # links may lead nowhere
    return tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


def with_groups(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb as typer reads it: a parameter whose type is a class, a group of options, stands for its options."""
    own = inspect.signature(verb, eval_str=True).parameters
    groups = {
        name: list(inspect.signature(parameter.annotation, eval_str=True).parameters.values())
        for name, parameter in own.items()
        if isinstance(parameter.annotation, type)
    }
    flat = [one for name in own for one in groups.get(name, [own[name]])]

    def run(**values: Any) -> None:
        for name, ones in groups.items():
            values[name] = own[name].annotation(**{one.name: values.pop(one.name) for one in ones})
        with leaving(lambda: "; no half-written file is left"):
            verb(**values)

    run.__name__, run.__doc__ = verb.__name__, verb.__doc__
    parameters = [one.replace(kind=one.KEYWORD_ONLY, annotation=_declared(one.annotation)) for one in flat]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _declared(annotation: Any) -> Any:
    """What typer reads: an option in place of the texts and bounds of `Annotated[type, metavar, help, ...]`."""
    kind, *parts = get_args(annotation)
    if not isinstance(parts[0], str):
        return annotation
    bounds = parts.pop() if isinstance(parts[-1], dict) else {}
    metavar, text, *names = parts
    return Annotated[kind, typer.Option(*names, metavar=metavar, help=text, **bounds)]


def numbers(text: str, option: str, what: str) -> list[int]:
    """Whole numbers in plain digits, separated by spaces or commas; Python's own notation has more forms.

    Raises:
        PromptError: something else, or none.
    """
    found = text.replace(",", " ").split()
    if not found or not all(re.fullmatch(r"-?[0-9]{1,18}", number) for number in found):
        raise PromptError(f"{option}: {text!r} is not a list of {what}; write it as 1 5 6 or 1,5,6.")
    return [int(number) for number in found]


def _as_utf8(text: str) -> str:
    """Text from a shell whose locale has no such letters, if it is UTF-8 as everywhere."""
    try:
        return text.encode("utf-8", "surrogateescape").decode()
    except UnicodeError:
        return text
