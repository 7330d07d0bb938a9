"""The experiments of a validation: nodes are taken out one by one and in sets, next to random controls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from attrgraph.interventions.swap import SCALES
from attrgraph.progress import Progress
from attrgraph.validation.agreement import agreement, rank_correlation, share
from attrgraph.validation.path_tests import follow, strongest_paths
from attrgraph.validation.predictions import predict
from attrgraph.validation.removal_estimates import removal_estimates
from attrgraph.validation.subject import Measured, Subject
from attrgraph.validation.validation_settings import Settings

_SIZES = (1, 2, 5, 10, 20, 50, 100)
_N_DOSED = 5  # most influential features that get a dose curve each
_N_RANDOM = 100  # random rankings
# A control feature is drawn from the features nearest in activation; from fewer, the same controls would repeat.
_NEAREST = 5


@dataclass
class Bench:
    """Runs experiments on one graph, and keeps what several tables need."""

    subject: Subject
    settings: Settings
    progress: Progress
    _ablated: Measured | None = None
    _sampled: Int[np.ndarray, " n_sampled"] = field(default_factory=lambda: np.zeros(0, np.int64))

    def one_by_one(
        self, sampled: Int[np.ndarray, " n_sampled"], named: Mapping[str, list[int]]
    ) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
        """Take nodes out one by one, and supernodes: `agreement`, `by_depth`, `nodes`, `supernodes`, and facts."""
        self._sampled, graph = sampled, self.subject.graph
        sets = [[int(row)] for row in sampled] + [list(rows) for rows in named.values()]
        predictions = predict(graph, self.subject.relative(sets))
        n, rows, by_depth, groups = len(sampled), [], [], []
        nodes = graph.nodes.iloc[sampled][
            ["kind", "layer", "pos", "feature", "token", "label", "influence"]
        ].reset_index()
        facts: dict[str, Any] = {}
        for mode in self.settings.modes:
            measured = self._measure(f"take out ({mode})", sets, mode)
            self._ablated = measured  # of the last mode, that which ranks
            predicted = predictions.in_mode(mode)
            edges = self._edges(predicted[:, :n], measured)
            x, y = predicted[self.subject.answer], measured.answer
            rows.append({"what": "edges", "mode": mode, **self._agree(edges["x"], edges["y"], edges["group"])})
            rows.append({"what": "nodes", "mode": mode, **self._agree(x[:n], y[:n], np.arange(n))})
            if named:
                rows.append({"what": "supernodes", "mode": mode, **self._agree(x[n:], y[n:], np.arange(len(named)))})
            for depth in np.unique(edges["depth"]):
                at = edges["depth"] == depth
                found = self._agree(edges["x"][at], edges["y"][at], edges["group"][at])
                by_depth.append({"mode": mode, "depth": int(depth), **found})
            nodes[f"predicted_{mode}"], nodes[f"measured_{mode}"] = x[:n], y[:n]
            nodes[f"flips_{mode}"] = measured.is_flipped[:n]
            scaled = {"predicted": x[n:], "measured": y[n:], "flips": measured.is_flipped[n:]}
            groups.append(pd.DataFrame({"supernode": list(named), "mode": mode, **scaled}))
            if mode == "frozen":
                facts["frozen_error"] = _relative_error(
                    np.concatenate([edges["x"], x]), np.concatenate([edges["y"], y])
                )
        tables = {"agreement": pd.DataFrame(rows), "by_depth": pd.DataFrame(by_depth), "nodes": nodes}
        if named:
            tables["supernodes"] = pd.concat(groups, ignore_index=True)
        return tables, facts

    def rankings(self) -> pd.DataFrame:
        """How well ways to rank the sampled features agree with what taking them out does to the answer's logit."""
        subject, nodes = self.subject, self.subject.graph.nodes
        is_feature = subject.kinds[self._sampled] == "feature"
        rows = self._sampled[is_feature]
        assert self._ablated is not None  # nodes have been taken out before
        effect = np.abs(self._ablated.answer[: len(self._sampled)][is_feature])
        predictions = predict(subject.graph, subject.relative([[int(row)] for row in rows]))
        places = list(nodes.iloc[rows][["layer", "feature", "pos"]].itertuples(index=False, name=None))
        token = int(nodes["feature"].iloc[subject.answer])
        estimates = removal_estimates(subject.model, subject.local, token, places)
        scores = {
            "influence": nodes["influence"].to_numpy()[rows],
            "attribution patching": np.abs(estimates),
            "total effect": np.abs(predictions.total[subject.answer]),
            "direct edge": np.abs(predictions.direct[subject.answer]),
            "activation": nodes["activation"].to_numpy()[rows],
        }
        table = [
            {"ranking": name, **rank_correlation(each, effect, **self._bootstrap)} for name, each in scores.items()
        ]
        rng = np.random.default_rng(self.settings.seed)
        random = [
            rank_correlation(rng.permutation(len(rows)) * 1.0, effect, n_resamples=2)["spearman"]
            for _ in range(_N_RANDOM)
        ]
        known = np.array([each for each in random if each is not None])
        low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (None, None)
        mean = float(known.mean()) if len(known) else None
        table.append(
            {"ranking": "random", "n": len(rows), "spearman": mean, "spearman_low": low, "spearman_high": high}
        )
        return pd.DataFrame(table)

    def necessity(self) -> pd.DataFrame:
        """Take out the k most influential features; then as many others, matched; in mode free too."""
        order = self.subject.by_influence
        chosen = {k: order[:k] for k in self._sizes()}
        modes = dict.fromkeys((self.settings.mode, "free"))
        return pd.concat(
            [self._with_controls("necessity", mode, chosen, lambda rows: rows) for mode in modes], ignore_index=True
        )

    def sufficiency(self) -> pd.DataFrame:
        """Keep the k most influential features and take out all other active ones; then keep as many matched ones."""
        features = self.subject.features
        kept = {k: self.subject.by_influence[:k] for k in self._sizes()}
        how: dict[str, Any] = {"with_unselected": True}
        return self._with_controls(
            "sufficiency", self.settings.mode, kept, lambda rows: np.setdiff1d(features, rows), **how
        )

    def doses(self, named: Mapping[str, list[int]]) -> pd.DataFrame:
        """The answer's logit as influential features, the first 20 of them together, and supernodes are scaled."""
        subject, order = self.subject, self.subject.by_influence
        labels = subject.graph.nodes["label"]
        sets = {f"{labels.iloc[row]} ({labels.index[row]})": [int(row)] for row in order[:_N_DOSED]}
        sets |= {"the 20 most influential features": order[:20].tolist(), **named}
        rows = []
        for done, scale in enumerate(SCALES):
            told = self._each("doses", done * len(sets), len(SCALES) * len(sets))
            measured = subject.measure(list(sets.values()), mode=self.settings.mode, scale=scale, done=told)
            predicted = predict(subject.graph, subject.relative(sets.values(), scale)).in_mode(self.settings.mode)
            changed = {"predicted": predicted[subject.answer], "measured": measured.answer}
            columns = {"nodes": list(sets), "scale": scale, **changed, "probability": measured.probability}
            rows.append(pd.DataFrame(columns))
        return pd.concat(rows, ignore_index=True)

    def paths(self) -> pd.DataFrame:
        """The strongest paths to the answer, each followed on its own; see `follow`."""
        found = []
        for done, (part, path) in enumerate(ways := strongest_paths(self.subject, self.settings.n_paths)):
            found.append({"share": part, **follow(self.subject, path)})
            self.progress("paths", done + 1, len(ways))
        return pd.DataFrame(found)

    def agreement_of_paths(self, paths: pd.DataFrame) -> pd.DataFrame:
        """As a row of the table `agreement`."""
        x, y = paths["predicted"].to_numpy(), paths["measured"].to_numpy()
        return pd.DataFrame([{"what": "paths", "mode": "frozen", **self._agree(x, y, np.arange(len(paths)))}])

    @property
    def _bootstrap(self) -> dict[str, int]:
        return {"n_resamples": self.settings.n_resamples, "seed": self.settings.seed}

    def _agree(self, x: np.ndarray, y: np.ndarray, group: np.ndarray) -> dict[str, int | float | None]:
        return agreement(x, y, group, **self._bootstrap)

    def _sizes(self) -> list[int]:
        """How many features are taken out or kept: at most half, so that there are others to compare with."""
        return [k for k in _SIZES if 2 * k <= len(self.subject.features)] or [1]

    def _measure(self, phase: str, sets: Sequence[Sequence[int]], mode: str) -> Measured:
        return self.subject.measure(sets, mode=mode, done=self._each(phase, 0, len(sets)))

    def _each(self, phase: str, done: int, total: int) -> Callable[[int], None]:
        """What tells of each single run, as some take seconds."""

        def report(n: int) -> None:
            nonlocal done
            done += n
            self.progress(phase, done, total)

        return report

    def _edges(self, predicted: np.ndarray, measured: Measured) -> dict[str, np.ndarray]:
        """Pairs of a node taken out and a feature above it: all that can have an effect, and all that are said to."""
        features, nodes = self.subject.features, self.subject.graph.nodes
        layers, positions = nodes["layer"].to_numpy(), nodes["pos"].to_numpy()
        depth = layers[features, None] - layers[self._sampled]
        can_act = positions[features, None] >= positions[self._sampled]
        # a feature that is taken out changes by what it was, whatever the graph says
        target, experiment = np.nonzero((depth > 0) & (can_act | (predicted[features] != 0)))
        return {
            "x": predicted[features[target], experiment],
            "y": measured.features[target, experiment],
            "group": experiment,
            "depth": depth[target, experiment],
        }

    def _with_controls(
        self,
        phase: str,
        mode: str,
        chosen: Mapping[int, np.ndarray],
        take_out: Callable[[np.ndarray], np.ndarray],
        **how: Any,
    ) -> pd.DataFrame:
        """A row for each k: what happens with the chosen features, and with random ones that can act too."""
        nodes, pool, n = self.subject.graph.nodes, self.subject.by_influence, 1 + self.settings.n_controls
        rows = []
        for done, (k, top) in enumerate(chosen.items()):
            drawn = [matched(nodes, top, pool, self.settings.seed + i) for i in range(self.settings.n_controls)]
            controls = [each for each in drawn if len(each)]  # none where no layer has another feature
            sets = [take_out(rows).tolist() for rows in (top, *controls)]
            told = self._each(f"{phase} ({mode})", done * n, len(chosen) * n)
            measured = self.subject.measure(sets, mode=mode, **how, done=told)
            self.progress(f"{phase} ({mode})", (done + 1) * n, len(chosen) * n)
            flips = share(measured.is_flipped[1:])
            of_answer = {name: getattr(measured, name) for name in ("probability", "margin", "kl")}
            rows.append(
                {"mode": mode, "k": k, "flips": bool(measured.is_flipped[0])}
                | {name: float(each[0]) for name, each in of_answer.items()}
                | {f"control_flips{end}": flips[f"share{end}"] for end in ("", "_low", "_high")}
                | {f"control_{name}": float(each[1:].mean()) if controls else None for name, each in of_answer.items()}
                | {"control_size": float(np.mean([len(each) for each in controls])) if controls else None}
            )
        return pd.DataFrame(rows)


def _relative_error(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Of all predictions together: the norm of the difference over that of the measurement."""
    size = float(np.linalg.norm(measured))
    return float(np.linalg.norm(predicted - measured)) / size if size else float(np.linalg.norm(predicted))


def sample_nodes(
    nodes: pd.DataFrame, can_act: Bool[np.ndarray, " n_nodes"], n: int, seed: int
) -> Int[np.ndarray, " n_sampled"]:
    """Rows of nodes that can act: all, or the `n // 2` most influential and as many random others."""
    candidates = np.flatnonzero(can_act)
    order = candidates[np.argsort(-nodes["influence"].to_numpy()[candidates], kind="stable")]
    if len(order) <= n:
        return order
    rest = np.random.default_rng(seed).permutation(order[n // 2 :])[: n - n // 2]
    return np.concatenate([order[: n // 2], np.sort(rest)])


def matched(
    nodes: pd.DataFrame, chosen: Int[np.ndarray, " k"], pool: Int[np.ndarray, " n_pool"], seed: int
) -> Int[np.ndarray, " n_matched"]:
    """For each chosen feature another of the same layer, the nearest position and a similar activation, all different.

    Fewer than chosen if a layer of the pool has not enough.
    """
    rng, layers, activation = np.random.default_rng(seed), nodes["layer"].to_numpy(), nodes["activation"].to_numpy()
    positions, left, found = nodes["pos"].to_numpy(), np.setdiff1d(pool, chosen), list[int]()
    for row in rng.permutation(chosen):
        same = left[layers[left] == layers[row]]
        if not len(same):
            continue
        away = np.abs(positions[same] - positions[row])
        same = same[away == away.min()]
        distance = np.abs(activation[same] - activation[row])
        found.append(int(rng.choice(same[np.argsort(distance, kind="stable")[:_NEAREST]])))
        left = left[left != found[-1]]
    return np.array(found, dtype=np.int64)
