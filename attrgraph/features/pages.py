"""Pages of features: what each one is, to look at, to count with, and to save."""

import json
from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from attrgraph.errors import FeatureError, GraphFileError, as_whole
from attrgraph.features.index_html import MOST_ROWS, index_html, table_html
from attrgraph.features.page_html import page_html
from attrgraph.features.page_text import page_text
from attrgraph.files import MAY_BE_LOST, foreign_file, put_back, whole_folder, write_whole
from attrgraph.io import feature_records
from attrgraph.schema import feature_place
from attrgraph.viz.text import visible

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    "layer index label label_source label_score label_control label_precision label_recall activation_frequency "
    "n_firings act_max act_mean"
).split()
_MEASURED = ("label_score", "label_control", "label_precision", "label_recall")


class FeaturePage(Mapping[str, Any]):
    """One feature's record by key, such as `page["act_max"]`; printed, a page of text; in a notebook, a page."""

    def __init__(self, record: Mapping[str, Any], pages: "FeaturePages | None" = None) -> None:
        self.record, self._pages = dict(record), pages

    def __getitem__(self, key: str) -> Any:
        return self.record[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.record)

    def __len__(self) -> int:
        return len(self.record)

    def __str__(self) -> str:
        return page_text(self.record, **self._around())

    def __repr__(self) -> str:
        return f"FeaturePage({self['layer']}/{self['index']}, {visible(self['label']) or 'no label'})"

    def _repr_html_(self) -> str:
        return page_html(self.record, is_whole=False, **self._around())

    def to_html(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the page as one HTML file that opens offline."""
        text = page_html(self.record, is_whole=True, **self._around())
        write_whole(path, lambda file: file.write_text(text, encoding="utf-8"), overwrite=overwrite)

    def _around(self) -> dict[str, Any]:
        """Labels of its neighbours, and the card."""
        if self._pages is None:
            return {"names": {}, "card": {}}
        near = [f"{one['layer']}/{one['feature']}" for key in ("together", "inputs", "outputs") for one in self[key]]
        names = {name: self._pages[name]["label"] for name in near if name in self._pages}
        return {"names": names, "card": self._pages.card}


class FeaturePages(Mapping[str, FeaturePage]):
    """The pages of a set's features, by "layer/feature" such as "3/458".

    Attributes:
        card: how they were made: model, transcoders, text, tokens, settings, controls.
    """

    def __init__(self, blobs: Mapping[feature_records.Place, bytes], card: Mapping[str, Any]) -> None:
        self._blobs, self.card = blobs, dict(card)

    @staticmethod
    def load(folder: str | Path) -> "FeaturePages":
        """The pages in a folder, each read when it is asked for.

        Raises:
            FeatureError: it holds none.
        """
        folder = Path(folder)
        feature_records.check_is_there(folder)
        return FeaturePages(feature_records.FeatureFiles(folder), feature_records.read_card(folder))

    def __getitem__(self, name: str | feature_records.Place) -> FeaturePage:
        place = place_of(name)
        try:
            return FeaturePage(feature_records.unpacked(self._blobs[place]), self)
        except KeyError as e:
            raise FeatureError(
                f"feature {place[0]}/{place[1]} has no page here; {len(self)} features have one, of layers "
                f"{', '.join(map(str, sorted({layer for layer, _ in self._blobs})))}."
            ) from e

    def __iter__(self) -> Iterator[str]:
        return (f"{layer}/{feature}" for layer, feature in self._blobs)

    def __contains__(self, name: object) -> bool:
        return place_of(name) in self._blobs

    def __len__(self) -> int:
        return len(self._blobs)

    def __repr__(self) -> str:
        return f"FeaturePages({len(self)} features, {self.card.get('n_tokens', 0)} tokens)"

    def _repr_html_(self) -> str:
        return table_html(self.best(), len(self), self.card)

    def to_html(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the features' names, labels, scores, frequencies and maxima as one HTML file, to be searched offline.

        It has the best 100,000, in the order of `best`.
        """
        text = index_html(self.best(MOST_ROWS), len(self), self.card)
        write_whole(path, lambda file: file.write_text(text, encoding="utf-8"), overwrite=overwrite)

    @property
    def labels(self) -> dict[feature_records.Place, str]:
        """Of the features that have one."""
        return {place: label for place in self._blobs if (label := self[place]["label"])}

    def with_labels(self, names: Mapping[feature_records.Place, str]) -> "FeaturePages":
        """The same pages with names that win, such as those that `load_labels` reads; what the rules found stays.

        Raises:
            FeatureError: one of them has no page here.
        """
        named = {}
        for place, name in names.items():
            found = {"label": name, "label_source": "given"}
            named[place] = feature_records.packed({**self[place].record, **found})
        return FeaturePages(ChainMap(named, cast(MutableMapping[feature_records.Place, bytes], self._blobs)), self.card)

    def table(self) -> "pd.DataFrame":
        """A row a feature: label, where it is from, score, control, frequency, strengths.

        Scores are of labels that were found: nobody measured a name that was given.
        """
        import pandas as pd

        rows = [{name: page[name] for name in _COLUMNS} for page in self.values()]
        table = pd.DataFrame(rows, columns=_COLUMNS).astype(dict.fromkeys(_MEASURED, float))
        table.loc[table["label_source"].isin(["given", "none"]), list(_MEASURED)] = float("nan")
        return table

    def best(self, n: int = 20) -> "pd.DataFrame":
        """Rows of the table: labels with the best scores, of equals those that fire most often; then the others."""
        table = self.table().assign(has_label=lambda rows: rows["label"] != "")
        order = ["has_label", "label_score", "activation_frequency"]
        return table.sort_values(order, ascending=False, kind="stable").drop(columns="has_label").head(n)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write a folder: feature files, Neuronpedia's batches, a table, labels, and the card.

        Raises:
            GraphFileError: it exists and `overwrite` is False, or it cannot be written.
        """
        folder = Path(folder)
        check_folder(folder, overwrite=overwrite)
        names: dict[str, dict[str, str]] = {}
        for (layer, feature), label in self.labels.items():
            names.setdefault(str(layer), {})[str(feature)] = label
        try:
            with whole_folder(folder, partial(check_folder, folder, overwrite=overwrite)) as new:
                feature_records.write_feature_files(new, self._blobs, self.card["n_features"])
                about = {"model": self.card["scan"], "source_set": self.card["source_set"]}
                feature_records.write_neuronpedia(new, self._blobs, **about)
                self.table().to_parquet(new / "features.parquet", index=False)
                for name, values in (("card.json", self.card), ("labels.json", names)):
                    text = json.dumps(values, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
                    (new / name).write_text(text, encoding="utf-8")
        except OSError as e:
            raise GraphFileError(f"{folder}: cannot be written ({e}).") from e


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise GraphFileError if pages could not be written there: to be asked before long work."""
    put_back(folder)
    if folder.exists() and not folder.is_dir():
        raise GraphFileError(f"{folder}: is a file; give a folder.")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise GraphFileError(f"{folder}: exists; choose another name or pass --force (overwrite=True).")
    if folder.exists() and any(folder.iterdir()):
        foreign = foreign_file(folder, feature_records.OWN_FILES)
        if foreign or not (folder / "card.json").is_file():
            what = f" ({foreign})" if foreign else ""
            raise GraphFileError(
                f"{folder}: holds something else than feature pages{what}, so it is not overwritten ({MAY_BE_LOST}); "
                "choose another name."
            )


def place_of(name: object) -> feature_records.Place:
    """Layer and feature of "3/458", of another name that `feature_place` knows, or of (3, 458).

    Raises:
        FeatureError: it is something else.
    """
    whole = [as_whole(one) for one in name] if isinstance(name, Sequence) and not isinstance(name, str) else []
    place = feature_place(name) if isinstance(name, str) else tuple(whole)
    if place is None or len(place) != 2 or None in place:
        raise FeatureError(f"{name!r:.60} names no feature; expected layer/feature, such as 3/458.")
    return cast(feature_records.Place, place)
