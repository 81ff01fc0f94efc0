"""Exact evaluation: every decodable image counts once, on any number of devices."""

import jax
import numpy as np
import pytest

from fastmim_jax.data.augment import center_crop
from fastmim_jax.data.decode import DecodeError, read_image
from fastmim_jax.data.sources import open_source
from fastmim_jax.evaluate.classify import Predictions, classify
from fastmim_jax.evaluate.report import per_class
from fastmim_jax.train.finetune import make_finetune_stage
from helpers import small

CLASSES = 7
BAD = (2, 9, 16)  # of 17 records


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """17 files of 7 classes, three of them no images."""
    folder = small.write_classes(tmp_path_factory.mktemp("images"), val=(3, 3, 3, 2, 2, 2, 2))
    source = open_source(folder, "val")
    for index in BAD:
        (folder / "val" / source.name(index)).write_bytes(b"no image")
    assert len(source) == 17 and len(source.classes) == CLASSES
    return source


class First:
    """The first records of a source."""

    def __init__(self, source, count):
        self._source, self._count = source, count

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        return self._source[index]

    def __getattr__(self, name):
        return getattr(self._source, name)


@pytest.fixture(scope="module")
def runs(source):
    """{devices: (Tuning, variables)}, whose second and third class are always equally likely."""
    config = small.tuning(batch_size=8)
    variables, found = None, {}
    for count in (1, 8):
        run = make_finetune_stage(config, 64, source.classes, devices=jax.devices()[:count])
        if variables is None:
            variables = jax.device_get(run.create().eval_variables())
            head = variables["params"]["head"]
            kernel = np.random.default_rng(0).normal(size=head["kernel"].shape).astype(np.float32)
            kernel[:, 2] = kernel[:, 1]
            variables["params"]["head"] = {"kernel": kernel, "bias": np.zeros(CLASSES, np.float32)}
        shardings = jax.tree.map(lambda leaf: leaf.sharding, run.abstract.eval_variables())
        found[count] = run, jax.device_put(variables, shardings)
    return found


@pytest.fixture(scope="module")
def reference(runs, source):
    """{record: logits} of what can be decoded, one image at a time, without any of the code for passes."""
    run, variables = runs[1]
    normalize = run.reader.normalize
    apply = jax.jit(lambda image: run.model.apply(variables, normalize(image[None], np.zeros(1, bool)))[0])
    found = {}
    for index in range(len(source)):
        try:
            image = read_image(source, index, 3)
        except DecodeError:
            continue
        found[index] = np.asarray(apply(center_crop(image, (32, 32), 36)))
    assert set(range(17)) - set(found) == set(BAD)
    return found


def assert_judged(eval_variables, source, reference):
    """As NumPy defines it: a stable sort, so that the first of equally likely classes comes first."""
    kept = [index for index in range(len(source)) if index in reference]
    logits = np.stack([reference[index] for index in kept])
    labels = np.array([source.label(index) for index in kept])
    order = np.argsort(-logits, axis=1, kind="stable")
    np.testing.assert_array_equal(eval_variables.index, kept)
    np.testing.assert_array_equal(eval_variables.label, labels)
    np.testing.assert_array_equal(eval_variables.best, order[:, :5])
    np.testing.assert_array_equal(eval_variables.rank, np.argmax(order == labels[:, None], axis=1))
    exps = np.exp(logits - logits.max(1, keepdims=True))
    probability = exps / exps.sum(1, keepdims=True)
    rows = np.arange(len(kept))[:, None]
    # Batches of another size are summed in another order: a few roundings of float32.
    np.testing.assert_allclose(eval_variables.probability, probability[rows, order[:, :5]], atol=1e-5)
    np.testing.assert_allclose(eval_variables.loss, -np.log(probability[rows[:, 0], labels]), atol=1e-4)
    assert eval_variables.bad == len(source) - len(kept)
    assert eval_variables.top1 == np.mean(order[:, 0] == labels)
    assert eval_variables.top5 == np.mean((order[:, :5] == labels[:, None]).any(1))


@pytest.mark.parametrize("devices", [1, 8])
def test_data_sets_of_every_size_are_judged_exactly(devices, runs, source, reference):
    run, variables = runs[devices]
    for count in range(1, 18):
        part, told = First(source, count), []
        eval_variables = classify(run, variables, part, progress=told.append)
        assert_judged(eval_variables, part, reference)
        assert told[-1] == count and told == sorted(told)


def test_chosen_records_are_judged_in_their_order(runs, source, reference):
    run, variables = runs[8]
    chosen = np.array([16, 4, 0, 9, 4])
    eval_variables = classify(run, variables, source, records=chosen)
    np.testing.assert_array_equal(eval_variables.index, [4, 0, 4])
    assert eval_variables.bad == 2
    np.testing.assert_array_equal(eval_variables.best[0], eval_variables.best[2])


def of(labels, best):
    """Judged of images whose likeliest classes these are."""
    best, labels = np.array(best), np.array(labels)
    rank = np.array([list(row).index(label) for row, label in zip(best, labels, strict=True)])
    return Predictions(
        np.arange(len(labels)), labels, best, np.ones(best.shape), rank, np.zeros(len(labels)), 0
    )


def test_the_confusion_counts_true_classes_in_rows():
    eval_variables = of([0, 0, 1, 1, 1], [[0, 1, 2], [2, 0, 1], [1, 0, 2], [0, 1, 2], [1, 2, 0]])
    confusion = eval_variables.confusion(3)
    np.testing.assert_array_equal(confusion, [[1, 0, 1], [1, 2, 0], [0, 0, 0]])
    np.testing.assert_array_equal(per_class(confusion), [1 / 2, 2 / 3, np.nan])
    assert eval_variables.top1 == 3 / 5 and eval_variables.top5 == 1


def test_ties_count_for_the_class_that_comes_first(runs, source, reference):
    """An image of class2, which is as likely as class1 everywhere, is never right."""
    run, variables = runs[8]
    eval_variables = classify(run, variables, source)
    rows = eval_variables.label == 2
    assert rows.sum() and (eval_variables.rank[rows] > 0).all() and (eval_variables.best[:, 0] != 2).all()
    first, second = eval_variables.rank[eval_variables.label == 1], eval_variables.rank[rows]
    assert (first < CLASSES - 1).all() and (second > 0).all()


def test_judging_is_of_the_averages(source):
    run = make_finetune_stage(small.tuning(batch_size=8), 64, source.classes, devices=jax.devices()[:1])
    state = run.create()
    moved = state.replace(params=jax.tree.map(lambda x: x + 1, state.params))
    still = classify(run, moved.eval_variables(), source)
    np.testing.assert_array_equal(still.loss, classify(run, state.eval_variables(), source).loss)
