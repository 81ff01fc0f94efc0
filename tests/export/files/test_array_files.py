"""Files of arrays: the arrays are found, and a round trip is exact to the bit."""

import json
import tracemalloc

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.files.array_files import read_tensors, write_pth, write_safetensors
from fastmim_jax.export.files.signature import sign
from fastmim_jax.export.torch_file.arrays import COPIES, SPARE
from helpers.torch_files import called, entries, program, tensor, write_zip

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "half": np.array([1.5, np.nan, -0.0], np.float16),
    "bfloat16": np.array([[1.5, -2]], ml_dtypes.bfloat16),
    "count": np.array(3, np.int64),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "device": jnp.arange(3.0),
}


def assert_same(ours, wanted):
    assert list(ours) == list(wanted)
    for name, array in wanted.items():
        array = np.asarray(array)
        assert ours[name].dtype == array.dtype and ours[name].shape == array.shape
        assert ours[name].tobytes() == array.tobytes(), name


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs the torch extra: pip install '.[torch]'")


def checkpoint(path, tree):
    """A checkpoint with 24 numbers for every leaf "T" of nested dicts, and text for other leaves."""

    def pickled(node):
        if isinstance(node, dict):
            return b"}" + entries({name: pickled(below) for name, below in node.items()})
        return tensor((24,), (1,)) if node == "T" else b"N"

    return write_zip(path, program(pickled(tree)))


@pytest.mark.parametrize(
    "tree, key, wrapper, prefix, names, ignored",
    [
        ({"w": "T", "b": "T"}, None, "", "", ["w", "b"], []),
        ({"w": "T", "steps": 1, "o": {}}, None, "", "", ["w"], ["steps", "o (0 entries)"]),
        ({"model": {"w": "T"}, "epoch": 1}, None, "model", "", ["w"], ["epoch"]),
        (
            {"model_ema": {"w": "T"}, "model": {"v": "T"}},
            None,
            "model",
            "",
            ["v"],
            ["model_ema (1 entry)"],
        ),
        (
            {"model_ema": {"w": "T"}, "model": {"v": "T"}},
            "model_ema",
            "model_ema",
            "",
            ["w"],
            ["model (1 entry)"],
        ),
        ({"state_dict": {"w": "T"}, "best_acc1": "T"}, None, "state_dict", "", ["w"], ["best_acc1"]),
        ({"model": {"module": {"w": "T", "x": 1}}}, None, "model.module", "", ["w"], ["x"]),
        ({"model": 1, "encoder": {"w": "T"}}, None, "encoder", "", ["w"], ["model"]),
        ({"net": {"module.w": "T", "module.b": "T"}}, None, "net", "module.", ["w", "b"], []),
        ({"module._orig_mod.w": "T"}, None, "", "module._orig_mod.", ["w"], []),
        (
            {"state_dict": {"model.w": "T"}, "loops": {}},
            None,
            "state_dict",
            "model.",
            ["w"],
            ["loops (0 entries)"],
        ),
        ({"module.w": "T", "b": "T"}, None, "", "", ["module.w", "b"], []),
        ({"x": {"y": {"w": "T"}}}, "x.y", "x.y", "", ["w"], []),
    ],
)
def test_where_arrays_are_found(tmp_path, tree, key, wrapper, prefix, names, ignored):
    found = read_tensors(checkpoint(tmp_path / "file.ckpt", tree), key)
    assert (found.wrapper, found.prefix, found.ignored) == (wrapper, prefix, ignored)
    assert list(found.arrays) == names
    assert all((array == np.arange(24)).all() for array in found.arrays.values())


@pytest.mark.parametrize(
    "tree, key, match",
    [
        (
            {"epoch": 1, "args": 2},
            None,
            "has no arrays in it: expected named arrays, but it holds epoch, args$",
        ),
        ({}, None, "but it holds nothing"),
        ({"generator": {"w": "T"}}, None, "choose --key= from: generator"),
        ({"state": {"Net": {"w": "T"}}, "b": {"w": "T"}}, None, "choose --key= from: state.Net, b"),
        ({"model": {"w": "T"}}, "model_ema", "has no entry 'model_ema': choose --key= from: model"),
        ({"model": {"w": "T"}}, "model.w.x", "has no entry 'model.w.x'"),
        ({"model": {"w": "T"}, "x": {"y": 1}}, "x", "has no arrays under 'x'"),
        ("T", None, "holds a single array: expected named arrays"),
    ],
)
def test_no_arrays(tmp_path, tree, key, match):
    with pytest.raises(UserError, match=match):
        read_tensors(checkpoint(tmp_path / "file.pth", tree), key)


def test_tensors_of_no_plain_numbers_are_named(tmp_path):
    body = b"}" + entries({"w": tensor((24,), (1,)), "s": called("torch._utils", "_rebuild_sparse_tensor")})
    with pytest.raises(UserError, match="s is no tensor of plain numbers .sparse_tensor.: save it after"):
        read_tensors(write_zip(tmp_path / "x.pth", program(body)))


def test_a_wrapper_that_contains_itself_terminates(tmp_path):
    body = b"}q\x00X\x05\x00\x00\x00modelh\x00s"
    with pytest.raises(UserError, match="has no arrays"):
        read_tensors(write_zip(tmp_path / "x.pth", program(body)))


def test_safetensors_round_trip(tmp_path):
    path = tmp_path / "model.anything"
    write_safetensors(path, ARRAYS, metadata="vit_b16")
    found = read_tensors(path)
    assert_same(found.arrays, {name: ARRAYS[name] for name in found.arrays})
    assert found.arrays.keys() == ARRAYS.keys() and found[1:] == ("", "", [], "vit_b16", "")
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    assert header["__metadata__"] == {
        "format": "pt",
        "fastmim_jax": "vit_b16",
        "fastmim_jax_sha256": sign(ARRAYS),
    }


def test_safetensors_as_torch_reads_them(torch, tmp_path):
    write_safetensors(tmp_path / "x", ARRAYS)
    theirs = pytest.importorskip("safetensors.torch").load_file(tmp_path / "x")
    for name, array in ARRAYS.items():
        bits = theirs[name].reshape(-1).view(torch.uint8).numpy().tobytes()
        assert bits == np.asarray(array).tobytes() and theirs[name].shape == array.shape
    assert theirs["bfloat16"].dtype == torch.bfloat16


@pytest.mark.parametrize("wrapper", ["model", ""])
def test_checkpoints_round_trip(torch, tmp_path, wrapper):
    path = tmp_path / "model.pth"
    write_pth(path, ARRAYS, "a text" if wrapper else "", wrapper)
    found = read_tensors(path)
    assert_same(found.arrays, ARRAYS)
    assert found.wrapper == wrapper and found.metadata == ("a text" if wrapper else "")
    theirs = torch.load(path, weights_only=True)
    theirs = theirs[wrapper] if wrapper else theirs
    assert theirs["bfloat16"].dtype == torch.bfloat16 and theirs["half"].dtype == torch.float16
    # The same arrays make the same file, though it was written under another name at first.
    before = path.read_bytes()
    write_pth(
        path, found.arrays, found.metadata, wrapper, overwrite=True
    )  # also while the old one is looked into
    assert path.read_bytes() == before


def test_checkpoints_need_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(UserError, match="needs torch"):
        write_pth(tmp_path / "x.pth", ARRAYS)
    assert not list(tmp_path.iterdir())


def test_parts_and_folders(tmp_path):
    arrays = {f"{i}": np.full(3, i) for i in range(4)}
    write_safetensors(tmp_path / "one.safetensors", {"0": arrays["0"], "1": arrays["1"]})
    write_safetensors(tmp_path / "two.safetensors", {"2": arrays["2"], "3": arrays["3"]})
    index = tmp_path / "model.safetensors.index.json"
    parts = {"0": "one", "1": "one", "2": "two", "3": "two"}
    weight_map = {name: f"{part}.safetensors" for name, part in parts.items()}
    index.write_text(json.dumps({"weight_map": weight_map}))
    for path in (tmp_path, index):
        found = read_tensors(path).arrays
        assert_same(dict(sorted(found.items())), arrays)

    for changed, match in [
        ({"0": "three.safetensors"}, "has no three.safetensors"),
        ({"0": "../one.safetensors"}, "names the part '../one.safetensors'"),
        ({"0": index.name}, "is text that starts with"),
        ({"9": "one.safetensors"}, "names '9', which is in none"),
        ({"0": 1}, "names the part 1|is not an index"),
    ]:
        index.write_text(json.dumps({"weight_map": changed}))
        with pytest.raises(UserError, match=match):
            read_tensors(tmp_path)
    index.write_text("{}")
    with pytest.raises(UserError, match="not an index of arrays"):
        read_tensors(tmp_path)

    write_safetensors(tmp_path / "model.safetensors", {"full": np.ones(1)})  # preferred to the parts
    assert list(read_tensors(tmp_path).arrays) == ["full"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no model.safetensors"):
        read_tensors(tmp_path / "empty")
    checkpoint(tmp_path / "empty" / "pytorch_model.bin", {"w": "T"})
    assert list(read_tensors(tmp_path / "empty").arrays) == ["w"]


def test_damaged_safetensors(tmp_path):
    write_safetensors(tmp_path / "x", {"a": np.arange(30.0), "b": np.ones(3)})
    intact = (tmp_path / "x").read_bytes()
    for length in range(9, len(intact), 5):
        (tmp_path / "cut").write_bytes(intact[:length])
        with pytest.raises(UserError, match="cut short or damaged"):
            read_tensors(tmp_path / "cut")
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(intact)
        damaged[rng.integers(200)] ^= 1 << rng.integers(8)
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            read_tensors(tmp_path / "damaged")
        except UserError as error:
            assert "\n" not in str(error)


def test_dtypes_that_safetensors_does_not_have(tmp_path):
    with pytest.raises(UserError, match="expected arrays of plain numbers"):
        write_safetensors(tmp_path / "x", {"a": np.ones(2, np.complex128)})
    assert not list(tmp_path.iterdir())


def test_nowhere_to_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_safetensors(tmp_path / "file" / "x", {"a": np.ones(2)})


def test_many_views_of_one_storage_are_bounded_by_the_size_of_the_file(tmp_path):
    """fp16 arrays that share one storage would be as many float32 copies of it."""
    count = 200_000
    options = dict(kind="HalfStorage", count=count)
    for views, allowed in ((2, True), (600, False)):
        sizes = ((count // 10 - i, 10) for i in range(views))
        state = {f"blocks.{i}.weight": tensor(x, (10, 1), **options) for i, x in enumerate(sizes)}
        body = program(b"}" + entries(state))
        path = write_zip(tmp_path / f"{views}.pth", body, {"0": bytes(2 * count)})
        if allowed:
            assert len(read_tensors(path).arrays) == views
            continue
        tracemalloc.start()
        with pytest.raises(UserError, match="take many times the file's size in memory"):
            read_tensors(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < COPIES * path.stat().st_size + SPARE
