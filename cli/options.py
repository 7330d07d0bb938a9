"""Options that several verbs have, and groups of options that verbs take as one value."""

import gc
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrgraph.errors import PromptError, TranscoderError

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph
    from attrgraph.models.language_model import LanguageModel


def option(metavar: str, help: str, *names: str, **bounds: Any) -> Any:
    """An option with a value, which the help calls `metavar`; `bounds` are `min` and `max`."""
    return typer.Option(*names, metavar=metavar, help=help, **bounds)


def flag(help: str, *names: str) -> Any:
    """An option without a value."""
    return typer.Option(*names, help=help)


def argument(metavar: str, help: str) -> Any:
    """A value without a name."""
    return typer.Argument(metavar=metavar, help=help)


Prompt = Annotated[str, argument("PROMPT", "Text; with --ids, token ids.")]
GraphFile = Annotated[Path, argument("GRAPH", "A graph file: .safetensors or .json.")]
Ids = Annotated[bool, flag("The prompt is token ids, separated by spaces or commas.", "--ids")]
AsJson = Annotated[bool, flag("Print the result as JSON.", "--json")]
AsCsv = Annotated[bool, flag("Print the result as CSV.", "--csv")]
Force = Annotated[bool, flag("Overwrite existing outputs.", "--force")]
Profile = Annotated[str, option("NAME", "Of JSON: neuronpedia, circuit-tracer or anthropic.", "--profile")]
Top = Annotated[int, option("N", "Rows of the table.", "--top", min=0)]
MemoryBudget = Annotated[
    str | None, option("SIZE", "For edges, such as 8G. Default: half of what is free.", "--memory-budget")
]
Mode = Annotated[str, option("MODE", "How much may respond: frozen, frozen-attention, constrained or free.", "--mode")]
UptoLayer = Annotated[
    int | None,
    option(
        "LAYER",
        "Mode constrained: MLPs are held up to this layer. Default: the highest layer that you change.",
        "--upto-layer",
    ),
]
Dtype = Annotated[str, option("DTYPE", "float32, float64, bfloat16 or float16.", "--dtype")]
Device = Annotated[str, option("DEVICE", "auto, cpu, cuda or cuda:N.", "--device")]
TEXT_HELP = "Text (a document a line), JSON lines, Parquet, or a Hugging Face datasets folder. Repeatable."
TextField = Annotated[str, option("NAME", "Where documents are records: the field with the text.", "--text-field")]


@dataclass(frozen=True)
class ModelOptions:
    """Which model to load, and how. None: what the graph says, or, for a prompt, the demo in float32."""

    model: Annotated[
        str | None, option("MODEL", "demo, a folder, or owner/repo. Default: the graph's; for a prompt, demo.")
    ] = None
    transcoders: Annotated[
        str | None, option("NAME", "demo, demo-per-layer, a folder, or owner/repo. Default for the demo: demo.")
    ] = None
    dtype: Annotated[
        str | None,
        option("DTYPE", "float32, float64, bfloat16 or float16. Default: the graph's; for a prompt, float32."),
    ] = None
    device: Annotated[str | None, option("DEVICE", "auto, cpu, cuda or cuda:N. Default: auto.")] = None
    revision: Annotated[str | None, option("NAME", "Branch, tag or commit of the model on the hub.")] = None

    def check(self, *, has_graph: bool = False) -> None:
        """Raise for options that do not fit together, before anything is read.

        Args:
            has_graph: whether a graph names the model.

        Raises:
            TranscoderError: a model whose transcoders are not known.
        """
        if self.model not in (None, "demo") and self.transcoders is None:
            raise TranscoderError(
                f"{self.model}: name its transcoders with --transcoders (a folder, or owner/repo on the hub)."
            )
        others = (self.transcoders, self.dtype, self.device, self.revision)
        if has_graph and self.model is None and any(option is not None for option in others):
            raise typer.BadParameter("with a graph, --transcoders, --dtype, --device and --revision need a --model.")

    def load(self, graph: "Graph | None" = None) -> "LanguageModel":
        """The model that the options name, or else the one that the graph was traced on."""
        if graph is not None and self.model is None:
            from attrgraph.attribution.provenance import origin_of
            from attrgraph.graph.origin import check_traced_model

            model = load_model(**origin_of(graph))
            check_traced_model(graph, model)
            return model
        traced_in = None if graph is None else graph.metadata.get("dtype")
        return load_model(
            model=self.model or "demo",
            transcoders=self.transcoders,
            dtype=self.dtype or traced_in or "float32",
            device=self.device or "auto",
            revision=self.revision,
        )


def load_model(model: str, transcoders: str | None = None, **how: Any) -> "LanguageModel":
    """`attrgraph.load_model`, which a shell does only once as long as the files stay the same."""
    loaded = _load(model, transcoders, tuple(sorted(how.items())), _stamp(model), _stamp(transcoders))
    collect_again()
    return loaded


def collect_again() -> None:
    """Turn on the garbage collection that `attrgraph.cli.main.run` turned off; what was imported is left alone."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


@lru_cache(maxsize=2)
def _load(
    model: str, transcoders: str | None, how: tuple[tuple[str, Any], ...], *stamps: tuple[Any, ...]
) -> "LanguageModel":
    from attrgraph.models.load_model import load_model

    return load_model(model, transcoders, **dict(how))


def _stamp(name: str | None) -> tuple[Any, ...]:
    """What changes if a file of a folder does."""
    folder = Path(name or "").expanduser()
    if name is None or not folder.is_dir():
        return ()
    return tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(folder.iterdir()))


def with_groups(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb as typer reads it: a parameter whose type is a group of options stands for the group's options."""
    signature = inspect.signature(verb, eval_str=True)
    types: dict[str, Any] = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    groups: dict[str, Any] = {name: one for name, one in types.items() if is_dataclass(one)}
    parameters = list[inspect.Parameter]()
    for name, parameter in signature.parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        for field in fields(groups[name]):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(field.name, kind, default=default, annotation=field.type))

    def run(**values: Any) -> None:
        taken = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        verb(**values, **taken)

    run.__name__, run.__doc__ = verb.__name__, verb.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def as_prompt(prompt: str, *, ids: bool) -> str | list[int]:
    """Text, or the token ids that it spells."""
    if not ids:
        return prompt
    try:
        return [int(number) for number in prompt.replace(",", " ").split()]
    except ValueError as e:
        raise PromptError(f"--ids: {prompt!r} is not a list of token ids; write it as 1 5 6 or 1,5,6.") from e
