"""The unpickler: plain data of every protocol, shared values, stand-ins, and damage."""

import collections
import io
import pickle
from collections import Counter

import pytest

from fastmim_jax.export.torch_file.arrays import Budget, UnsupportedFile
from fastmim_jax.export.torch_file.constructors import CONSTRUCTORS
from fastmim_jax.export.torch_file.reader import DECODING_ERRORS
from fastmim_jax.export.torch_file.unpickler import CheckpointUnpickler, StandIn
from helpers.torch_files import called, entries, named, number, program, text


def run(file, unread=None, size=0):
    unread = Counter() if unread is None else unread
    return CheckpointUnpickler(file, CONSTRUCTORS, None, Budget(size), unread).load()


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
    file = io.BytesIO(pickle.dumps(values, protocol) + b"rest")
    found = run(file)
    assert found == values and list(found["ordered"]) == ["b", "a"]
    assert file.read() == b"rest"


def test_shared_and_cyclic_values_stay_shared():
    shared = [1]
    cycle = [shared, shared]
    cycle.append(cycle)
    found = run(io.BytesIO(pickle.dumps(cycle)))
    assert found[0] is found[1] and found[2] is found


def test_memos_have_the_numbers_that_the_file_gives_them():
    body = b"(" + number(5) + b"q\x07" + number(6) + b"q\x03" + b"h\x07t"
    assert run(io.BytesIO(program(body))) == (5, 6, 5)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"\x82\x01)R", "copyreg.extension 1"),  # EXT1: a global by its number in a registry
        (named("a.b", "Config") + b")\x81", "a.b.Config"),
        (named("a.b", "Config") + b")}\x92", "a.b.Config"),
        (b"(ia\nb\n", "a.b"),
        (b"(" + named("a", "b") + number(1) + b"o", "a.b"),
        (called("copy_reg", "_reconstructor", named("a", "b"), named("builtins", "object"), b"N"), "a.b"),
        (called("builtins", "getattr", named("enum", "Color"), text("RED")), "enum.Color.RED"),
        (named("builtins", "exec") + b"(" + text("raise SystemExit") + b"tR", "builtins.exec"),
    ],
)
def test_objects_of_other_classes_become_stand_ins(body, name):
    unread = Counter()
    content = b"}" + entries({"lr": number(1)}) + b"b" + entries({"a": number(2)}) + b"(" + number(3) + b"e"
    found = run(io.BytesIO(program(body + content)), unread)
    assert type(found) is StandIn and found.name == name and unread[name] == 1
    assert found.state == {"lr": 1} and found.entries == {"a": 2} and found.items == [3]


def test_stand_ins_of_one_class_are_apart():
    one, other = run(io.BytesIO(program(b"]" + (b"(" + named("a", "b") + b")R" + b"e") * 2)))
    assert one is not other and one.state is None


def test_nested_keys_are_not_hashed():
    """A tuple of twice the same tuple, nested: its hash takes 2 ** depth steps."""
    twice = b")" + b"q\x00h\x00\x86" * 100
    found = run(io.BytesIO(program(b"}" + twice + number(1) + b"s")))
    assert [type(key) for key in found] == [StandIn]
    assert run(io.BytesIO(b"\x80\x04\x8f(" + twice + b"\x90.")).name == "builtins.set"


@pytest.mark.slow
def test_deep_nesting_is_no_recursion():
    depth = 100_000
    found = run(io.BytesIO(program(b"]" * depth + b"a" * (depth - 1))))
    assert len(found) == 1
    run(io.BytesIO(program(b")" + b"\x85" * depth)))
    chain = named("a", "b") + b"q\x00h\x00)\x81" + b"h\x00)\x81" * depth + b"b" * depth
    assert run(io.BytesIO(program(chain)), size=2**24).name == "a.b"


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        b"\x8f" * 300_000,  # empty sets
        b"N" + b"\x94" * 300_000,  # memos
        b"(" * 300_000,
        b"](}q\0("
        + b"".join(number(k) + b"N" for k in range(3000))
        + b"u"
        + b"ccollections\nOrderedDict\n(h\0tR" * 200
        + b"e",
        b"]("
        + text("x" * 2**20)
        + b"q\0"
        + (b"c_codecs\nencode\n(h\0" + text("latin1") + b"tR") * 200
        + b"e",
    ],
    ids=["sets", "memos", "marks", "dicts", "bytes"],
)
def test_memory_is_bounded(body):
    with pytest.raises(UnsupportedFile, match="take many times the file's size"):
        run(io.BytesIO(program(body)), size=len(body))


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
        b"\x97",  # NEXT_BUFFER: data outside of the file
        b"\x8d" + b"\xff" * 8,  # text of 2 ** 64 bytes
        b"\x96" + b"\0" * 5 + b"\x01\0\0ab",  # 2 ** 40 bytes
        b"](}(" + b"uu",
        number(1) + b")R",
        b"}}b" + b")\x81",
    ],
)
def test_damaged_pickles_are_reported(body):
    with pytest.raises(DECODING_ERRORS):
        run(io.BytesIO(program(body)))
