"""What transcoders are worth on a text: errors, sparsity, the replacement model's answers, graph scores, intervals."""

from attrgraph.evaluation.compare import compare
from attrgraph.evaluation.evaluate import evaluate
from attrgraph.evaluation.evaluation_figure import draw_evaluation
from attrgraph.evaluation.neurons import NEURONS, TopNeurons, neuron_baseline
from attrgraph.evaluation.report import Evaluation
from attrgraph.evaluation.split import Split, choose_split, read_rows, skipped_in_training
from attrgraph.evaluation.stand_ins import Reconstruction, StandIn

__all__ = [
    "NEURONS",
    "Evaluation",
    "Reconstruction",
    "Split",
    "StandIn",
    "TopNeurons",
    "choose_split",
    "compare",
    "draw_evaluation",
    "evaluate",
    "neuron_baseline",
    "read_rows",
    "skipped_in_training",
]
