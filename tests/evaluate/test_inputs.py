"""Processes of an evaluation compare what they read."""

import threading
from types import SimpleNamespace

import pytest

from fastmim_jax.data.sources import open_source
from fastmim_jax.evaluate import inputs
from fastmim_jax.evaluate.inputs import compare_inputs
from fastmim_jax.train import checksums, handshake
from fastmim_jax.train.peers import AgreedError
from helpers import small
from helpers.connected import connect, together
from helpers.labelled_images import write_images


def loaded(folder, content):
    folder.mkdir()
    (folder / checksums.FILE).write_text(content)
    return SimpleNamespace(path=folder, step=3, config=small.config())


def test_other_checkpoints_and_other_images_are_refused(tmp_path, monkeypatch):
    mine = threading.local()
    for module in (inputs, handshake):
        monkeypatch.setattr(module, "current_peers", lambda: getattr(mine, "peer", None))
    images = [open_source(str(write_images(tmp_path / f"images{n}", 2, seed=n))) for n in range(2)]
    runs = [loaded(tmp_path / f"checkpoint{n}", f"sums {n}") for n in range(2)]
    compare_inputs(runs[0], images[0])  # alone

    def compare(peer):
        mine.peer = peer
        compare_inputs(runs[0], images[0])
        for run, source, said in (
            (runs[peer.process], images[0], "process 1 on .* loads the checkpoint of step 3 with the hash"),
            (runs[0], images[peer.process], "reads other content than process 0 .* 6 of 6 records"),
        ):
            with pytest.raises(AgreedError, match=said):
                compare_inputs(run, source)
        return True

    peers, _ = connect(2)
    assert together(compare, peers) == [True, True]
    for peer in peers:
        peer.close()
