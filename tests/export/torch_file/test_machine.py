"""The pickle machine: plain data of every protocol, shared values, and what it refuses."""

import collections
import io
import pickle

import pytest

from fastmim_jax.export.torch_file.allowlist import UnsupportedFile
from fastmim_jax.export.torch_file.machine import DamagedFile, run
from helpers.torch_files import number, program, text

VALUES = {
    "none": None,
    "flags": (True, False, ()),
    "numbers": [0, 255, -1, 2**31, 2**70, 0.5, float("inf")],
    "text": ["", "ä€", "long " * 100],
    "bytes": b"\0\1",
    "nested": {1: {"a": [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]}},
    "ordered": collections.OrderedDict(b=1, a=2),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_in_every_protocol(protocol):
    values = dict(VALUES) if protocol > 2 else {k: x for k, x in VALUES.items() if k != "bytes"}
    values |= {"set": {1, 2}, "frozen": frozenset("ab")} if protocol > 3 else {}
    file = io.BytesIO(pickle.dumps(values, protocol) + b"rest")
    found = run(file, None)
    assert found == values and list(found["ordered"]) == ["b", "a"]
    assert file.read() == b"rest"


def test_shared_and_cyclic_values_stay_shared():
    shared = [1]
    cycle = [shared, shared]
    cycle.append(cycle)
    found = run(io.BytesIO(pickle.dumps(cycle)), None)
    assert found[0] is found[1] and found[2] is found


def test_memos_have_the_numbers_that_the_file_gives_them():
    body = b"(" + number(5) + b"q\x07" + number(6) + b"q\x03" + b"h\x07t"
    assert run(io.BytesIO(program(body)), None) == (5, 6, 5)


@pytest.mark.parametrize(
    "body",
    [
        b"\x82\x01",  # EXT1: a global by its number in a registry
        b"\x97",  # NEXT_BUFFER: data outside of the file
        b"}\x92",  # NEWOBJ_EX
    ],
)
def test_other_instructions_are_refused(body):
    with pytest.raises(UnsupportedFile, match="holds the pickle instruction [A-Z0-9_]+, "):
        run(io.BytesIO(program(body)), None)


@pytest.mark.parametrize("lookup", [b"cbuiltins\nexec\n", text("builtins") + text("exec") + b"\x93"])
def test_globals_outside_of_the_allow_list_are_refused(lookup):
    body = lookup + b"(" + text("raise SystemExit") + b"tR"
    with pytest.raises(UnsupportedFile, match="asks for 'builtins.exec'"):
        run(io.BytesIO(program(body)), None)


@pytest.mark.parametrize(
    "body",
    [
        b"",  # nothing to return
        number(1) + b"a",  # an item without a list
        b"](" + number(1) + b"u",  # a key without a value, in a list
        b"h\x05",  # a memo that was not written
        b"t",  # a tuple without a mark
        b"\x87",  # three values of none
        b"X\x05\0\0\0ab",  # text that ends early
    ],
)
def test_damaged_pickles_are_reported(body):
    with pytest.raises(DamagedFile, match=r"^[A-Za-z]+Error: "):
        run(io.BytesIO(program(body)), None)
