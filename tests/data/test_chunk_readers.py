"""Chunks arrive in their order, and exceptions as they were raised, from threads and from processes."""

import contextlib

import pytest

from fastmim_jax.data.chunk_readers import ThreadReader, WorkerReader
from fastmim_jax.errors import UserError

CHUNKS = 17


class Refused(Exception):
    """An error that needs two arguments, and is pickled with one."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def read(number):
    return number


def change(number):
    if number == 3:
        raise UserError("the file has changed")
    return number


def refuse(number):
    raise Refused("one", "two")


def in_threads(read):
    return ThreadReader(read, CHUNKS, threads=2, ahead=3)


def in_workers(read):
    return WorkerReader(read, CHUNKS, workers=1, threads=2, max_restarts=0)


READERS = [
    in_threads,
    pytest.param(in_workers, marks=[pytest.mark.slow, pytest.mark.multiprocess]),
]


@pytest.mark.parametrize("start", READERS)
def test_chunks_arrive_in_their_order_and_end(start):
    reader, numbers = start(read), []
    with contextlib.closing(reader), pytest.raises(StopIteration):
        while True:
            numbers.append(reader.next())
    assert numbers == list(range(CHUNKS))


@pytest.mark.parametrize("start", READERS)
def test_a_sentence_for_the_user_arrives(start):
    with contextlib.closing(start(change)) as reader, pytest.raises(UserError) as caught:
        for _ in range(CHUNKS):
            reader.next()
    assert str(caught.value) == "the file has changed"


@pytest.mark.parametrize("start", READERS)
def test_any_other_error_arrives_with_its_cause(start):
    with contextlib.closing(start(refuse)) as reader, pytest.raises(Exception, match="one two"):
        reader.next()
