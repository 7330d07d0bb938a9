"""The entries that are kept of each feature, against a sort of them all."""

import numpy as np
import pytest

from attrgraph.features.kept import Kept


@pytest.mark.parametrize("one_a_document", [False, True])
@pytest.mark.parametrize("n_values", [5, 10**6])
def test_the_best_of_each_feature_are_kept_however_they_come(
    n_values: int, *, one_a_document: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attrgraph.features.kept._MOST_WAITING", 64)
    n, n_features, n_each = 3000, 7, 4
    rng = np.random.default_rng(0)
    feature, token = rng.integers(0, n_features, n), rng.permutation(n)
    # of few values many are equal; negative ones are scores too
    score, document = rng.integers(-n_values, n_values, n) / 7.0, token // 3
    kept = Kept(n_features, n_each, one_a_document=one_a_document)
    for some in np.array_split(np.arange(n), 40):
        at = some[np.argsort(token[some])]
        at = at[kept.worth_offering(feature[at], score[at])]
        kept.offer(feature=feature[at], score=score[at], token=token[at], document=document[at])
    expected = []
    for one in range(n_features):
        seen, best = set[int](), list[int]()
        for i in sorted(np.flatnonzero(feature == one), key=lambda i: (-score[i], token[i])):
            if not (one_a_document and int(document[i]) in seen):
                best.append(int(token[i]))
            seen.add(int(document[i]))
        expected += best[:n_each]
    assert kept.entries()["token"].tolist() == expected
