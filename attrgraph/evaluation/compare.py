"""Several sets of transcoders on the same text, and the model's own neurons."""

from collections.abc import Mapping
from functools import partial

from attrgraph.data.corpus import TokenRows
from attrgraph.errors import AttrGraphError
from attrgraph.evaluation.evaluate import evaluate
from attrgraph.evaluation.neurons import NEURONS, neuron_baseline
from attrgraph.evaluation.report import Evaluation
from attrgraph.evaluation.stand_ins import TranscoderStandIn
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import SkipPositions
from attrgraph.progress import Progress
from attrgraph.transcoders import Transcoders


def compare(
    model: LanguageModel,
    sets: Mapping[str, Transcoders],
    rows: TokenRows,
    *,
    n_graphs: int,
    with_neurons: bool = True,
    skip_positions: SkipPositions = "auto",
    progress: Progress | None = None,
) -> dict[str, Evaluation]:
    """`evaluate` each set, and top-k neurons at the active counts that the first set has in each layer.

    Args:
        model: the model.
        sets: transcoders by name.
        rows: the text.
        n_graphs: see `evaluate`.
        with_neurons: whether to evaluate neurons too; they come last, named `NEURONS`.
        skip_positions: see `evaluate`.
        progress: see `evaluate`.

    Raises:
        AttrGraphError: there is no set; and what `evaluate` raises, for unfit transcoders before anything is measured.
    """
    if not sets:
        raise AttrGraphError("there are no transcoders to evaluate; give at least one set.")
    for transcoders in sets.values():
        TranscoderStandIn(model, transcoders)
    measured = partial(evaluate, model, rows=rows, skip_positions=skip_positions, progress=progress)
    found = {name: measured(transcoders, n_graphs=n_graphs) for name, transcoders in sets.items()}
    if with_neurons:
        l0_by_layer = next(iter(found.values())).l0_by_layer
        found[NEURONS] = measured(neuron_baseline(model, l0_by_layer, rows, skip_positions=skip_positions))
    return found
