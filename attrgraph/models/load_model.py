"""Load a language model and its transcoders from a folder, the Hugging Face hub, or the package itself."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.quantization_config import Mxfp4Config

from attrgraph.demo.shipped import SHIPPED, shipped_folder
from attrgraph.errors import AttrGraphError, ModelLoadError, UnsupportedModelError, checked
from attrgraph.files import read_json
from attrgraph.models.create import silently
from attrgraph.models.families import family_of
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.weights import home_device
from attrgraph.transcoders import Transcoders, load_transcoders
from attrgraph.transcoders.digests import digest_files
from attrgraph.transcoders.hub import resolve_folder
from attrgraph.transcoders.known_sets import known_for
from attrgraph.transcoders.labels import joined, load_labels

_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
# the deepest models have 126; making a million takes an hour
_MOST_LAYERS = 1000
_FILE_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@checked
def load_model(
    model: str | Path | PreTrainedModel,
    transcoders: str | Path | Transcoders | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "auto",
    revision: str | None = None,
    read_point: str | None = None,
    write_point: str | None = None,
    labels: Iterable[str | Path] = (),
    allow_missing_layers: bool = False,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> LanguageModel:
    """A language model ready to trace.

    Args:
        model: "demo" for the shipped model; a folder in Hugging Face format; `owner/repo` on the hub; or a model of
            transformers, which stays as it is: spread over devices, offloaded, quantised.
        transcoders: a folder or hub repository (`owner/repo[/subfolder][@revision]`) in any published layout, "demo"
            (cross-layer, the default for the demo), "demo-per-layer", or a set already in memory; None: none.
        tokenizer: in place of the folder's; with a model of transformers, its own.
        dtype: of the model: float32, float64, bfloat16 or float16, as text or torch's. Edges are at least float32.
        device: "auto" takes a GPU if there is one; else a torch device such as "cpu" or "cuda:1".
        revision: branch, tag or commit of the model on the hub.
        read_point, write_point: of transcoders whose folder does not say them; see `load_transcoders`.
        labels: files with names of features; see `load_labels`.
        allow_missing_layers: trace with a set of which layers are missing, at the top too; see `load_transcoders`.
        chat_template_kwargs: for the tokenizer's chat template, such as {"enable_thinking": False}.

    Raises:
        ModelLoadError, UnsupportedModelError, TranscoderError: what is wrong with which folder.

    Example:
        >>> import attrgraph as ag
        >>> ag.load_model("demo")
        LanguageModel(Llama, 4 layers x 128, demo)
    """
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise AttrGraphError(f"dtype is {dtype!r}; expected one of {', '.join(_DTYPES)}.")
    source, where = None, _device_of(model, dtype, device, revision)
    points = {"read_point": read_point, "write_point": write_point, "allow_missing_layers": allow_missing_layers}
    opened = _opened("demo" if str(model) == "demo" and transcoders is None else transcoders, where, labels, points)
    if isinstance(model, str | Path):
        folder, source = _folder_of(model, revision)
        hf_model: PreTrainedModel = _load_hf_model(folder, _DTYPES[dtype]).to(where)  # type: ignore[arg-type]
        if "revision" not in source:
            source["digest"] = digest_files([folder / "config.json", *_weight_files(folder, hf_model.config)])
        if opened is None:
            _tell_known_sets(source["id"])
        tokenizer = tokenizer or _load_tokenizer(folder)
    else:
        hf_model = model
    if chat_template_kwargs and (tokenizer is None or tokenizer.chat_template is None):
        raise ModelLoadError(f"the model has no chat template that could take {', '.join(chat_template_kwargs)}.")
    if allow_missing_layers and opened is not None:
        opened = opened.up_to(hf_model.config.get_text_config().num_hidden_layers)
    how: dict[str, Any] = {"source": source, "chat_template_kwargs": chat_template_kwargs}
    return LanguageModel(hf_model, tokenizer, transcoders=opened, **how)


def _tell_known_sets(name: str) -> None:
    """Log one line if published transcoders are known for a model that is loaded without any."""
    if known := known_for(name):
        logging.getLogger("attrgraph").warning("%s is loaded without transcoders%s", name, known)


def _opened(
    transcoders: str | Path | Transcoders | None,
    device: torch.device,
    labels: Iterable[str | Path],
    points: Mapping[str, Any],
) -> Transcoders | None:
    """The set, from where it is named, with names of features."""
    opened = named_transcoders(transcoders, device, **points) if isinstance(transcoders, str | Path) else transcoders
    given = load_labels(*labels)
    if opened is not None and given:
        opened = copy(opened)  # the caller's keeps its own names
        opened.labels = joined(opened.labels, given)
    return opened


def _folder_of(model: str | Path, revision: str | None) -> tuple[Path, dict[str, str]]:
    """The folder of a model that is named, and where it is from."""
    if str(model) != "demo":
        return resolve_folder(str(model), revision=revision, patterns=_FILE_PATTERNS, error=ModelLoadError)
    if revision is not None:
        raise ModelLoadError(f"demo: has no revision {revision!r}; revisions are for names on the hub.")
    folder, source = resolve_folder(str(shipped_folder("model")), revision=None, patterns=[], error=ModelLoadError)
    return folder, source | {"id": "demo"}


def named_transcoders(name: str | Path, device: str | torch.device, **points: Any) -> Transcoders:
    """The shipped set "demo" or "demo-per-layer", or one from a folder or the hub."""
    if str(name) not in SHIPPED:
        return load_transcoders(name, device=device, **points)
    shipped = load_transcoders(shipped_folder(SHIPPED[str(name)]), device=device)
    shipped.source["id"] = str(name)
    return shipped


def _resolve_device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as e:
        raise AttrGraphError(f"device {str(device)!r} is not available here; use auto, cpu, or cuda:N.") from e
    return where


def _device_of(model: object, dtype: str, device: str | torch.device, revision: str | None) -> torch.device:
    """Where a model that is named is put; a model that is given is taken as it is."""
    if isinstance(model, str | Path):
        return _resolve_device(device)
    if not isinstance(model, PreTrainedModel):
        ways = {
            "merge_and_unload": ": pass model.merge_and_unload(), or copy.deepcopy(model).merge_and_unload()",
            "_orig_mod": ": pass model._orig_mod, the model that was compiled",
            "module": ": pass model.module, the model inside",
        }
        raise ModelLoadError(
            f"model is a {type(model).__module__}.{type(model).__name__}; expected a folder, a name, or a model of "
            f"transformers{next((way for name, way in ways.items() if hasattr(model, name)), '')}."
        )
    have = {"dtype": str(model.dtype).removeprefix("torch."), "device": str(home_device(model)), "revision": None}
    asked = {"dtype": dtype, "device": str(device), "revision": revision}
    # what was not asked for is left as it is
    for name, default in (("dtype", "float32"), ("device", "auto"), ("revision", None)):
        if asked[name] not in (default, have[name]):
            raise AttrGraphError(
                f"{name} is {asked[name]}, and the model that is given has {have[name]}; it is taken as it is: leave "
                f"{name} out, or change the model first."
            )
    return home_device(model)


def _load_hf_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    # transformers applies it or leaves it out, by what is installed
    for adapter in (*folder.glob("adapter_config.json"), *folder.glob("adapter_model.*")):
        raise UnsupportedModelError(
            f"{adapter}: an adapter would not be applied; merge it: peft.AutoPeftModelForCausalLM.from_pretrained("
            f'"{folder}").merge_and_unload().save_pretrained("MERGED"), and load MERGED. To load a model without it, '
            "take the files adapter_* away."
        )
    for path in folder.iterdir():  # whoever reads a pipe waits
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ModelLoadError(f"{path}: is no regular file.")
    if not (folder / "config.json").is_file():
        raise ModelLoadError(f"{folder}: has no config.json; expected a model in Hugging Face format.")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as e:  # transformers lets many kinds of error out of a bad config.json
        raise UnsupportedModelError(
            f"{folder}/config.json: not a configuration that transformers knows ({_first_line(e)})."
        ) from e
    family_of(config)  # refuse before reading weights
    n_layers = config.get_text_config().num_hidden_layers
    if not isinstance(n_layers, int) or not 0 < n_layers <= _MOST_LAYERS:
        raise UnsupportedModelError(
            f"{folder}/config.json: says {n_layers!r:.30} layers; expected 1 to {_MOST_LAYERS}."
        )
    how = _dequantised(folder, config)
    if not any(folder.glob("*.safetensors")):
        raise ModelLoadError(f"{folder}: holds no *.safetensors; convert the weights (pickled ones are never opened).")
    try:
        with silently():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation="eager",
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **how,
            )
    except Exception as e:  # as above: bad sizes, unknown activations, truncated files
        _check_fit(folder, _misfits(folder, config))
        raise ModelLoadError(f"{folder}: its weights cannot be read ({_first_line(e)}).") from e
    model, info = loaded
    _check_fit(folder, [f"{name} is missing" for name in sorted(info["missing_keys"])])
    if not how:
        _check_types(folder, model.config)
    if how:  # transformers 4 leaves in bfloat16 what it dequantises
        model = model.to(dtype)
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


def _check_fit(folder: Path, wrong: Sequence[str]) -> None:
    """Raise if something is wrong with weights."""
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ModelLoadError(
            f"{folder}: its weights do not fit its config.json: {', '.join(wrong[:5])}{more}; download both again."
        )


def _misfits(folder: Path, config: PretrainedConfig) -> list[str]:
    """Weights of another shape than the config says, told without reading or making any, as far as they can be told."""
    found = []
    try:
        with torch.device("meta"), silently():
            model = AutoModelForCausalLM.from_config(config)
        expected = {name: list(w.shape) for name, w in model.named_parameters()}
        for path in _weight_files(folder, config):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    shape = file.get_slice(name).get_shape()
                    due = expected.get(name, expected.get(f"{model.base_model_prefix}.{name}", shape))
                    if due != shape:
                        found.append(f"{name} has shape {shape}, expected {due}")
    except Exception:  # as above; what was wrong first is said then
        return []
    return sorted(found)


def _check_types(folder: Path, config: PretrainedConfig) -> None:
    """Raise for weights that transformers would take for numbers that they are not: whole ones, truth values."""
    for path in _weight_files(folder, config):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                kind = file.get_slice(name).get_dtype()
                if name.endswith(".weight") and not kind.startswith(("F", "BF")):
                    raise ModelLoadError(
                        f"{path}: {name} is {kind}; expected floating-point weights: they may be quantised, and "
                        "config.json does not say how."
                    )


def _weight_files(folder: Path, config: PretrainedConfig) -> list[Path]:
    """The files that transformers reads a folder's weights from: one, or those that an index names.

    It takes the file that the config names, else model.safetensors, else the index, as its `modeling_utils` does.
    """
    names = [getattr(config, "transformers_weights", None), "model.safetensors", "model.safetensors.index.json"]
    first = next(folder / name for name in names if name and (folder / name).is_file())
    if first.suffix != ".json":
        return [first]
    return [folder / name for name in sorted(set(read_json(first)["weight_map"].values()))]


def _dequantised(folder: Path, config: Any) -> dict[str, Any]:
    """Arguments with which transformers dequantises what is quantised in the folder, if anything is."""
    quantised = getattr(config, "quantization_config", None)
    if quantised is None:
        return {}
    method = quantised.get("quant_method") if isinstance(quantised, dict) else None
    if method == "mxfp4":
        return {"quantization_config": Mxfp4Config(dequantize=True)}
    arguments = dict.fromkeys(("bitsandbytes", "torchao", "gptq", "awq"), "")
    arguments["fp8"] = ", quantization_config=FineGrainedFP8Config(dequantize=True)"
    way = "load the model that it was made from"
    if method in arguments:
        way = f'give load_model what AutoModelForCausalLM.from_pretrained("{folder}"{arguments[method]}) returns'
    raise UnsupportedModelError(f"{folder}: its weights are quantised ({method or quantised!s:.60}); {way}.")


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The folder's tokenizer; None if it has none."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    if not any((folder / name).is_file() for name in names):
        return None
    try:
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except ValueError:
            # a class name of another transformers version; tokenizer.json says everything by itself
            if not (folder / "tokenizer.json").is_file():
                raise
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)
    except Exception as e:
        raise ModelLoadError(f"{folder}: its tokenizer cannot be read ({_first_line(e)}).") from e
    return tokenizer


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
