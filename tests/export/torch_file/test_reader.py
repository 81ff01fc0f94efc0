"""Checkpoints read without PyTorch: values to the bit, against torch.load too; messages for other files."""

import argparse
import collections
import datetime
import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.files.array_files import read_tensors
from fastmim_jax.export.torch_file.reader import read_pth
from fastmim_jax.export.torch_file.unpickler import StandIn
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


@WRITERS
def test_tensors_follow_their_strides(tmp_path, write):
    body = {
        "full": tensor((4, 6), (6, 1)),
        "tied": tensor((4, 6), (6, 1)),
        "transposed": tensor((6, 4), (1, 6)),
        "slice": tensor((2, 3), (12, 2), offset=7),
        "row": tensor((6,), (1,), offset=12),
        "scalar": tensor((), (), offset=5),
        "empty": tensor((0, 3), (3, 1)),
        "expanded": tensor((3, 2), (0, 1)),
    }
    found = read_values(write(tmp_path / "x", program(b"}" + entries(body))))
    table = NUMBERS.reshape(4, 6)
    wanted = {
        "full": table,
        "tied": table,
        "transposed": table.T,
        "slice": table[1::2, 1::2],
        "row": table[2],
        "scalar": np.float32(5),
        "empty": np.zeros((0, 3)),
        "expanded": np.stack([table[0, :2]] * 3),
    }
    assert list(found) == list(wanted)
    for name, array in found.items():
        assert type(array) is np.ndarray and array.dtype == np.float32 and array.flags.c_contiguous
        assert array.shape == wanted[name].shape and (array == wanted[name]).all(), name
    assert found["transposed"].flags.aligned


def test_writing_to_an_array_leaves_the_file_unchanged(tmp_path):
    path = write_zip(tmp_path / "x.pth", program(tensor((24,), (1,))))
    before = path.read_bytes()
    read_values(path)[:] = 7
    assert path.read_bytes() == before and (read_values(path) == NUMBERS).all()


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(
    "kind, dtype",
    [("HalfStorage", np.float16), ("LongStorage", np.int64), ("ComplexFloatStorage", np.complex64)]
    + [("BFloat16Storage", ml_dtypes.bfloat16), ("BoolStorage", np.bool_)],
)
def test_byte_orders(tmp_path, order, kind, dtype):
    values = (np.arange(6) % 5 * (1 + 2j if kind.startswith("Complex") else 1)).astype(dtype)
    unit = values.dtype.itemsize // (2 if values.dtype.kind == "c" else 1)
    raw = values.view(f"u{unit}").astype(f"{'<' if order == 'little' else '>'}u{unit}").tobytes()
    body = program(tensor((6,), (1,), kind=kind, count=6))
    found = read_values(write_zip(tmp_path / "x.pth", body, {"0": raw}, folder="any name", byteorder=order))
    assert found.dtype == dtype and found.dtype.isnative and (found == values).all()


def test_part_of_a_storage_in_an_old_file(tmp_path):
    view = several(text("v"), number(6), number(4))
    storage = several(text("storage"), named("torch.cuda", "FloatStorage"), text("0"), text("cuda:0"))
    storage = storage[:-1] + number(24) + view + b"tQ"
    places = number(1), several(number(3)), several(number(1))
    body = program(called("torch._utils", "_rebuild_tensor", storage, *places))
    assert read_values(write_stream(tmp_path / "x.pth", body)).tolist() == [7, 8, 9]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_as_in_pickle(tmp_path, protocol):
    ordered = collections.OrderedDict(a=1, b=[2.5])
    ordered._metadata = {"version": 1}
    values = {
        "numbers": [1, -(2**70), True, False, None, 0.1],
        "texts": ["é\n", b"\x00\xff", b"", bytearray(b"ab")],
        "nested": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, [[]]),
        "ordered": ordered,
        "dicts": [collections.Counter("aab"), collections.defaultdict(list, a=[1])],
        "numpy": [np.arange(6).reshape(2, 3).T, np.float32(2), np.array([b"a", b"bc"]), np.array("text")],
        "big endian": np.arange(3, dtype=">i2"),
        (1, "a"): np.int64(3),
    }
    found = read_values(write_zip(tmp_path / "x.pth", pickle.dumps(values, protocol)))
    assert repr(found.pop("numpy")) == repr(values.pop("numpy"))
    array = found.pop("big endian")
    assert (array == values.pop("big endian")).all() and array.dtype.isnative
    assert found == values


@pytest.mark.parametrize("protocol", range(6))
def test_settings_become_stand_ins(tmp_path, protocol):
    values = {
        "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a/b")),
        "when": datetime.date(2022, 1, 2),
    }
    found = read_values(write_zip(tmp_path / "x.pth", pickle.dumps(values, protocol)))
    args = found["args"]
    assert type(args) is StandIn and args.name == "argparse.Namespace" and args.state["lr"] == 0.1
    assert type(args.state["path"]) is StandIn and type(found["when"]) is StandIn
    assert repr(args) == "<argparse.Namespace, not loaded>"


def test_settings_of_classes_that_are_not_installed(tmp_path):
    config = named("yacs.config", "CfgNode") + b")\x81" + entries({"EPOCHS": number(800)})
    config += b"}" + entries({"__immutable__": b"\x88"}) + b"b"
    history = named("mmengine.logging.history_buffer", "HistoryBuffer")
    method = called("__builtin__", "getattr", history, text("mean"))
    log = history + b")\x81}" + entries({"methods": b"}" + entries({"mean": method})}) + b"b"
    found = read_values(
        write_zip(tmp_path / "x.pth", program(b"}" + entries({"config": config, "log": log})))
    )
    assert found["config"].entries == {"EPOCHS": 800} and found["config"].state == {"__immutable__": True}
    method = found["log"].state["methods"]["mean"]
    assert method.name == "mmengine.logging.history_buffer.HistoryBuffer.mean"


DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
NEWER = ("complex64", "complex128", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs the torch extra: pip install '.[torch]'")


def assert_same(ours, theirs, torch):
    """The same containers, numbers and bits."""
    if isinstance(theirs, torch.Tensor):
        theirs = theirs.detach().resolve_conj().resolve_neg().contiguous()
        assert type(ours) is np.ndarray and ours.flags.c_contiguous and ours.flags.writeable
        assert ours.dtype.name == str(theirs.dtype).removeprefix("torch.")
        assert ours.shape == tuple(theirs.shape)
        assert ours.tobytes() == theirs.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for name in theirs:
            assert_same(ours[name], theirs[name], torch)
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other, torch)
    else:
        assert ours == theirs


def random_tensor(torch, dtype, *shape):
    bits = torch.randint(0, 2 if dtype == "bool" else 64, (*shape, 16), dtype=torch.uint8)
    dtype = getattr(torch, dtype)
    return bits.reshape(-1).view(dtype)[: int(np.prod(shape))].reshape(shape)


def check(torch, tmp_path, value, **options):
    torch.save(value, tmp_path / "x.pth", **options)
    ours = read_values(tmp_path / "x.pth")
    assert_same(ours, torch.load(tmp_path / "x.pth", weights_only=False), torch)
    return ours


STREAM = pytest.mark.parametrize("archive", [True, False], ids=["zip", "stream"])


@STREAM
def test_dtypes_as_torch_reads_them(torch, tmp_path, archive):
    torch.manual_seed(0)
    values = {name: random_tensor(torch, name, 5, 7) for name in DTYPES + (NEWER if archive else NEWER[:2])}
    values |= {f"{name} transposed": x.T for name, x in values.items()}
    values["conjugated"] = values["complex64"].conj()
    values["negated"] = torch.complex(torch.ones(3), torch.arange(3.0)).conj().imag
    check(torch, tmp_path, values, _use_new_zipfile_serialization=archive)


@STREAM
def test_layouts_as_torch_reads_them(torch, tmp_path, archive):
    pretrain_config = torch.arange(120.0).reshape(2, 3, 4, 5)
    linear = torch.nn.Linear(3, 2)
    marked = torch.nn.Parameter(torch.ones(2))
    marked.no_weight_decay = True
    buffer = torch.zeros(3)
    buffer.note = "x"
    values = {
        "views": [
            pretrain_config,
            pretrain_config[1],
            pretrain_config[:, 1:, ::2],
            pretrain_config.permute(3, 1, 0, 2),
            pretrain_config[1, 2, 3, 4],
            pretrain_config.flatten(),
        ],
        "channels last": pretrain_config.to(memory_format=torch.channels_last),
        "empty": [torch.zeros(0), torch.zeros(3, 0, 2), pretrain_config[:0]],
        "expanded": torch.ones(1, 3).expand(4, 3),
        "parameters": [
            linear.weight,
            marked,
            torch.nn.Parameter(torch.ones(2), requires_grad=False),
            buffer,
        ],
        "tied": {"a.weight": linear.weight, "b.weight": linear.weight},
        "state": linear.state_dict(),
    }
    ours = check(torch, tmp_path, values, _use_new_zipfile_serialization=archive)
    # Storages behind a pickle may be unaligned; those are copied.
    assert np.shares_memory(ours["tied"]["a.weight"], ours["tied"]["b.weight"]) or not archive
    assert np.shares_memory(ours["views"][0], ours["views"][1]) or not archive


@STREAM
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_training_checkpoint_as_torch_reads_it(torch, tmp_path, archive, protocol):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    model(torch.ones(2, 3, 5, 5)).square().sum().backward()
    optimizer.step()
    value = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {name: x for name, x in schedule.state_dict().items() if name != "_schedule"},
        "epoch": 3,
        "rng": torch.get_rng_state(),
    }
    options = {"_use_new_zipfile_serialization": archive, "pickle_protocol": protocol}
    check(torch, tmp_path, value, **options)
    args = argparse.Namespace(
        lr=0.1, device=torch.device("cuda", 1), dtype=torch.float16, size=torch.Size([2])
    )
    torch.save({"args": args} | value, tmp_path / "x.pth", **options)
    ours = read_values(tmp_path / "x.pth")
    assert_same(ours["model"], value["model"], torch)
    state = ours["args"].state
    assert (state["lr"], state["device"].args, state["size"]) == (0.1, ("cuda", 1), (2,))
    assert state["dtype"].dtype == np.float16


def test_file_without_checksums(torch, tmp_path):
    settings = pytest.importorskip("torch.utils.serialization").config.save
    before, settings.compute_crc32 = settings.compute_crc32, False
    try:
        check(torch, tmp_path, {"a": torch.arange(5.0)})
    finally:
        settings.compute_crc32 = before


def test_tensors_without_a_dense_array_are_named(torch, tmp_path):
    torch.save({"a": torch.eye(3).to_sparse(), "b": torch.zeros(2, device="meta")}, tmp_path / "x.pth")
    found, unread = read_pth(tmp_path / "x.pth")
    assert {type(x) for x in found.values()} == {StandIn}
    assert "torch._utils._rebuild_sparse_tensor" in unread


@STREAM
def test_a_pickled_model_is_its_state_dict(torch, tmp_path, archive):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Sequential(torch.nn.BatchNorm2d(4)))
    for value, wrapper in ((model, ""), ({"ema": model, "epoch": 1}, "ema")):
        torch.save(value, tmp_path / "x.pth", _use_new_zipfile_serialization=archive)
        found = read_tensors(tmp_path / "x.pth")
        assert found.wrapper == wrapper and list(found.arrays) == list(model.state_dict())
        for name, x in model.state_dict().items():
            np.testing.assert_array_equal(found.arrays[name], x.numpy())
        assert "torch.nn.modules.conv.Conv2d" in found.unread


def write_records(*names, compression=zipfile.ZIP_STORED):
    def write(path):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name in names:
                archive.writestr(name, "N.")

    return write


@pytest.mark.parametrize(
    "content, match",
    [
        (b"\xff" * 300, "cut short or damaged"),
        (pickle.dumps({"a": 1}), "has no arrays in it"),
        (write_records("a.npy", "b.npy"), "is a NumPy archive"),
        (write_records("word/document.xml"), "is a zip of word/document.xml, without data.pkl"),
        (write_records("m/data.pkl", "m/constants.pkl", "m/code/m.py"), "is a TorchScript program"),
        (write_records("m/data.pkl", compression=zipfile.ZIP_DEFLATED), "is a compressed zip"),
    ],
)
def test_other_files_are_recognised(tmp_path, content, match):
    path = tmp_path / "model.pth"
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    with pytest.raises(UserError, match=match) as caught:
        read_tensors(path)
    assert str(caught.value).startswith(str(path))
