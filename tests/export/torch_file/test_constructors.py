"""Malicious and damaged checkpoints: no code of theirs runs, and impossible arrays are refused."""

import copyreg
import os
import pickle
import struct

import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.files.array_files import read_tensors
from fastmim_jax.export.torch_file.reader import read_pth
from fastmim_jax.export.torch_file.unpickler import CheckpointUnpickler, StandIn
from helpers.torch_files import (
    NUMBERS,
    called,
    entries,
    named,
    number,
    program,
    read_values,
    several,
    tensor,
    text,
    write_stream,
    write_zip,
)

WRITERS = pytest.mark.parametrize("write", [write_zip, write_stream], ids=["zip", "stream"])
# A shell command and a Python expression that make a folder named "harm".
COMMAND, EXPRESSION = text("mkdir harm"), text("__import__('os').mkdir('harm')")


def dotted(module, name):
    """STACK_GLOBAL, which can reach attributes of a module."""
    return b"\x80\x04" + text(module) + text(name) + b"\x93"


class Reduced:
    def __reduce__(self):
        return os.mkdir, ("harm",)


MALICIOUS = {
    "os.system": program(called("os", "system", COMMAND)),
    "posix.mkdir": pickle.dumps(Reduced(), 4),
    "builtins.eval": program(called("builtins", "eval", EXPRESSION)),
    "builtins.exec": program(b"(" + EXPRESSION + b"ibuiltins\nexec\n"),  # INST
    "subprocess.getoutput": program(b"(" + named("subprocess", "getoutput") + COMMAND + b"o"),  # OBJ
    "subprocess.Popen": program(called("subprocess", "Popen", several(text("mkdir"), text("harm")))),
    "argparse._os.system": dotted("argparse", "_os.system") + COMMAND + b"\x85R.",
    "collections._sys.modules": dotted("collections", "_sys.modules") + b".",
    "builtins.getattr": program(called("builtins", "getattr", named("numpy", "ndarray"), text("dump"))),
    "runpy._run_code": program(called("runpy", "_run_code", EXPRESSION, b"}")),
}
HARMLESS_ALONE = ("collections._sys.modules", "builtins.getattr")


@pytest.mark.parametrize("name", MALICIOUS)
@WRITERS
def test_other_globals_become_stand_ins_and_no_code_runs(tmp_path, monkeypatch, name, write):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "model.pth", MALICIOUS[name])
    found, unread = read_pth(path)
    assert type(found) is StandIn and len(unread) >= 1
    assert name == "builtins.getattr" or found.name == name
    with pytest.raises(UserError, match="expected named arrays|has no arrays"):
        read_tensors(path)
    assert not os.path.exists("harm")


@WRITERS
def test_arrays_beside_a_malicious_object_are_read(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    harm = called("os", "system", COMMAND)
    body = {"state_dict": b"}" + entries({"w": tensor((4, 6), (6, 1))}), "hook": harm}
    found = read_tensors(write(tmp_path / "model.pth", program(b"}" + entries(body))))
    assert (found.arrays["w"] == NUMBERS.reshape(4, 6)).all()
    assert found.ignored == ["hook (os.system)"] and found.unread == "1 object of os.system"
    assert not os.path.exists("harm")


@pytest.mark.parametrize("name", sorted(MALICIOUS.keys() - HARMLESS_ALONE))
def test_the_malicious_files_do_harm_in_pickle(tmp_path, monkeypatch, name):
    """Python's own unpickler runs them, so that the test above could fail."""
    monkeypatch.chdir(tmp_path)
    made = pickle.loads(MALICIOUS[name])
    if name == "subprocess.Popen":
        made.wait()
    assert os.path.exists("harm")


def test_registered_extensions_are_not_used(tmp_path):
    copyreg.add_extension("os", "system", 240)
    try:
        path = write_zip(tmp_path / "x.pth", program(b"\x82\xf0" + several(COMMAND) + b"R"))
        assert read_pth(path).content.name == "copyreg.extension 240"
    finally:
        copyreg.remove_extension("os", "system", 240)


def long(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


@pytest.mark.parametrize(
    "body",
    [
        tensor((4, 6), (7, 1)),
        tensor((25,), (1,)),
        tensor((24,), (1,), offset=1),
        tensor((24,), (1,), offset=-1),
        tensor((2, -3), (1, 1)),
        tensor((2,), (-1,), offset=5),
        tensor((2, 2), (1,)),
        tensor((2,), (1,), count=-24),
        tensor((2,), (1,), count=25),
        tensor((2,), (1,), key="1"),
        tensor((2,), (1,), key="../0"),
        tensor((2,), (1,), kind="DoubleStorage"),
        tensor((2**40, 2**40), (2**23, 1), numbers=long),
        tensor((2**40,), (0,), numbers=long),
        tensor((b"F1\n",), (1,), numbers=lambda x: x if type(x) is bytes else number(x)),
        called("torch._utils", "_rebuild_tensor_v2", b"}", number(0), b"))", b"\x89", b"N"),
        called("builtins", "bytearray", number(2**31 - 1)),
        called("builtins", "bytes", number(2**31 - 1)),
        called("_codecs", "encode", text("a"), text("rot13")),
        tensor((24,), (1,)) + b"(" + number(1) + b"e",
        b"}" + b")R",
        b"h\x07",
        b"e",
        b"",
    ],
)
@WRITERS
def test_impossible_values_are_refused(tmp_path, body, write):
    records = {"0": NUMBERS.tobytes()}
    with pytest.raises(UserError):
        read_values(write(tmp_path / "x.pth", program(body), records))


STATE = b"}" + entries({"__setstate__": number(1), "read": b"N", "make": b"N"})


@pytest.mark.parametrize(
    "global_name", [("torch", "Size"), ("torch._utils", "_rebuild_tensor_v2"), ("a", "b")]
)
def test_a_file_changes_nothing_for_the_next(tmp_path, global_name):
    body = named(*global_name) + STATE + b"b" + b"N" + STATE + b"\x86b"
    read_values(write_zip(tmp_path / "x.pth", program(body)))
    assert (read_values(write_zip(tmp_path / "y.pth", program(tensor((24,), (1,))))) == NUMBERS).all()
    state = read_values(write_zip(tmp_path / "z.pth", program(tensor((24,), (1,)) + STATE + b"b")))
    assert (state == NUMBERS).all()


def test_memory_is_not_allocated_ahead(tmp_path):
    """A memo number of 2 ** 32 - 1, for which Python's unpickler allocates a table of 64 GB."""
    body = program(b"]r\xff\xff\xff\xff")
    assert read_pth(write_zip(tmp_path / "x.pth", body)).content == []
    huge = b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a."
    with pytest.raises(UserError, match="cut short or damaged"):
        read_values(write_zip(tmp_path / "x.pth", huge))


@pytest.mark.parametrize(
    "body, name",
    [
        (called("torch._utils", "_rebuild_sparse_tensor"), "torch._utils._rebuild_sparse_tensor"),
        (tensor((2,), (1,), kind="QInt8Storage"), "torch.QInt8Storage"),
        (several(text("module"), named("timm", "Block"), b"NN") + b"Q", "timm.Block"),
        (named("timm.models.vision_transformer", "Block"), "timm.models.vision_transformer.Block"),
        (called("torch.torch_version", "TorchVersion", text("2.9")), "torch.torch_version.TorchVersion"),
    ],
)
def test_other_kinds_of_tensors_are_named(tmp_path, body, name):
    found, unread = read_pth(write_zip(tmp_path / "x.pth", program(body)))
    assert type(found) is StandIn and found.name == name and name in unread


@pytest.mark.parametrize("array", [np.array([{}]), np.zeros(2, [("a", "f4")]), np.zeros(2, "M8[s]")])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_numpy_arrays_of_objects_are_no_arrays(tmp_path, array, protocol):
    body = pickle.dumps({"names": array, "w": np.ones(2)}, protocol)
    found = read_tensors(write_zip(tmp_path / "x.pth", body))
    assert list(found.arrays) == ["w"] and found.ignored == ["names"]


def some_checkpoint():
    state = {f"blocks.{i}.weight": tensor((4, 6), (6, 1), key=str(i)) for i in range(3)}
    body = {"model": b"}" + entries(state), "epoch": number(7)}
    records = {str(i): (NUMBERS + i).tobytes() for i in range(3)}
    return program(b"}" + entries(body)), records


@WRITERS
def test_cut_files(tmp_path, write):
    whole = write(tmp_path / "x.pth", *some_checkpoint()).read_bytes()
    for length in [*range(1, 60), *range(60, len(whole) - 8, 23), *range(len(whole) - 8, len(whole))]:
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(UserError) as caught:
            read_values(tmp_path / "cut.pth")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.slow
@WRITERS
def test_damaged_files(tmp_path, write):
    """Damage gives a UserError, or the right values in an archive, which has checksums."""
    path = write(tmp_path / "x.pth", *some_checkpoint())
    whole, wanted = path.read_bytes(), read_values(path)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(400):
        damaged = bytearray(whole)
        for position in rng.integers(len(whole), size=rng.integers(1, 4)):
            damaged[position] ^= 1 << rng.integers(8)
        (tmp_path / "damaged.pth").write_bytes(damaged)
        try:
            found = read_values(tmp_path / "damaged.pth")
        except UserError:
            refused += 1
        else:
            if write is write_zip:
                assert str(found) == str(wanted)
    assert refused > 100


@WRITERS
def test_random_instructions(tmp_path, write):
    """Instructions put into a pickle or in place of others lead to a sentence, or to arrays."""
    codes, random = bytes(CheckpointUnpickler.dispatch), np.random.default_rng(1)
    pickled, records = some_checkpoint()
    for _ in range(150):
        changed = bytearray(pickled)
        for position in random.integers(len(pickled), size=random.integers(1, 5)):
            changed[position : position + random.integers(2)] = [random.choice(list(codes))]
        try:
            read_tensors(write(tmp_path / "x.pth", bytes(changed), records))
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 700
