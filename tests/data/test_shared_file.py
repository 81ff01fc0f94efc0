"""A pickled copy of a shared file maps the same bytes."""

import pickle

from fastmim_jax.data.shared_file import SharedFile


def test_copies_see_the_same_bytes():
    shared = SharedFile(8)
    copy = pickle.loads(pickle.dumps(shared))
    copy.memory()[:3] = b"abc"
    assert shared.memory()[:4] == b"abc\0"
    shared.close(), shared.close(), copy.close()
    assert copy.memory()[:3] == b"abc"  # still mapped
