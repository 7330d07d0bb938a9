"""Two processes that share the features end where one does."""

import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from sharded import KINDS, live_round, run_all, run_in_process

from attrgraph.errors import AttrGraphError
from attrgraph.transcoders.training.shards import Shards


def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    expected = run_all(Shards(), tmp_path / "alone") | live_round(Shards())
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(run_in_process, args=(str(tmp_path), port), nprocs=2)
    for rank in range(2):
        whole = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert {name.split(".")[0] for name in whole} == {*KINDS, "live"}
        for name, tensor in expected.items():
            # sums over features in another order: rounding, grown over the steps
            torch.testing.assert_close(whole[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.refusal
def test_features_that_cannot_be_shared_evenly_are_refused() -> None:
    with pytest.raises(AttrGraphError, match="n_features is 7, which 2 processes cannot split evenly"):
        Shards(0, 2).features(7)
