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
def stages(source):
    """{devices: (FinetuneStage, variables)}; the second and third class are always equally likely."""
    config = small.tuning(batch_size=8)
    variables, found = None, {}
    for count in (1, 8):
        stage = make_finetune_stage(config, 64, source.classes, devices=jax.devices()[:count])
        if variables is None:
            variables = jax.device_get(stage.create().eval_variables())
            head = variables["params"]["head"]
            kernel = np.random.default_rng(0).normal(size=head["kernel"].shape).astype(np.float32)
            kernel[:, 2] = kernel[:, 1]
            variables["params"]["head"] = {"kernel": kernel, "bias": np.zeros(CLASSES, np.float32)}
        shardings = jax.tree.map(lambda leaf: leaf.sharding, stage.abstract.eval_variables())
        found[count] = stage, jax.device_put(variables, shardings)
    return found


@pytest.fixture(scope="module")
def reference(stages, source):
    """{record: logits} of the decodable images, one at a time, without the code for evaluation batches."""
    stage, variables = stages[1]
    normalize = stage.reader.normalize
    apply = jax.jit(
        lambda image: stage.model.apply(variables, normalize(image[None], np.zeros(1, bool)))[0]
    )
    found = {}
    for index in range(len(source)):
        try:
            image = read_image(source, index, 3)
        except DecodeError:
            continue
        found[index] = np.asarray(apply(center_crop(image, (32, 32), 36)))
    assert set(range(17)) - set(found) == set(BAD)
    return found


def assert_predictions(predictions, source, reference):
    """The reference is a stable sort in NumPy: the first of equally likely classes comes first."""
    decodable = [index for index in range(len(source)) if index in reference]
    logits = np.stack([reference[index] for index in decodable])
    labels = np.array([source.label(index) for index in decodable])
    ranking = np.argsort(-logits, axis=1, kind="stable")
    np.testing.assert_array_equal(predictions.index, decodable)
    np.testing.assert_array_equal(predictions.label, labels)
    np.testing.assert_array_equal(predictions.best, ranking[:, :5])
    np.testing.assert_array_equal(predictions.rank, np.argmax(ranking == labels[:, None], axis=1))
    exps = np.exp(logits - logits.max(1, keepdims=True))
    probability = exps / exps.sum(1, keepdims=True)
    rows = np.arange(len(decodable))[:, None]
    # Batches of another size are summed in another order: a few roundings of float32.
    np.testing.assert_allclose(predictions.probability, probability[rows, ranking[:, :5]], atol=1e-5)
    np.testing.assert_allclose(predictions.loss, -np.log(probability[rows[:, 0], labels]), atol=1e-4)
    assert predictions.bad == len(source) - len(decodable)
    assert predictions.top1 == np.mean(ranking[:, 0] == labels)
    assert predictions.top5 == np.mean((ranking[:, :5] == labels[:, None]).any(1))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_data_sets_of_every_size_are_classified_exactly(devices, stages, source, reference):
    stage, variables = stages[devices]
    for count in range(1, 18):
        part, done = First(source, count), []
        predictions = classify(stage, variables, part, progress=done.append)
        assert_predictions(predictions, part, reference)
        assert done[-1] == count and done == sorted(done)


@pytest.mark.slow
def test_selected_records_are_classified_in_their_order(stages, source, reference):
    stage, variables = stages[8]
    chosen = np.array([16, 4, 0, 9, 4])
    predictions = classify(stage, variables, source, records=chosen)
    np.testing.assert_array_equal(predictions.index, [4, 0, 4])
    assert predictions.bad == 2
    np.testing.assert_array_equal(predictions.best[0], predictions.best[2])


def of(labels, best):
    """Predictions with given likeliest classes."""
    best, labels = np.array(best), np.array(labels)
    rank = np.array([list(row).index(label) for row, label in zip(best, labels, strict=True)])
    return Predictions(
        np.arange(len(labels)), labels, best, np.ones(best.shape), rank, np.zeros(len(labels)), 0
    )


def test_the_confusion_counts_true_classes_in_rows():
    predictions = of([0, 0, 1, 1, 1], [[0, 1, 2], [2, 0, 1], [1, 0, 2], [0, 1, 2], [1, 2, 0]])
    confusion = predictions.confusion(3)
    np.testing.assert_array_equal(confusion, [[1, 0, 1], [1, 2, 0], [0, 0, 0]])
    np.testing.assert_array_equal(per_class(confusion), [1 / 2, 2 / 3, np.nan])
    assert predictions.top1 == 3 / 5 and predictions.top5 == 1


@pytest.mark.slow
def test_ties_count_for_the_class_that_comes_first(stages, source, reference):
    """An image of class2, which is as likely as class1 everywhere, is never right."""
    stage, variables = stages[8]
    predictions = classify(stage, variables, source)
    rows = predictions.label == 2
    assert rows.sum() and (predictions.rank[rows] > 0).all() and (predictions.best[:, 0] != 2).all()
    first, second = predictions.rank[predictions.label == 1], predictions.rank[rows]
    assert (first < CLASSES - 1).all() and (second > 0).all()


@pytest.mark.slow
def test_moving_averages_are_evaluated(source):
    stage = make_finetune_stage(small.tuning(batch_size=8), 64, source.classes, devices=jax.devices()[:1])
    state = stage.create()
    moved = state.replace(params=jax.tree.map(lambda x: x + 1, state.params))
    still = classify(stage, moved.eval_variables(), source)
    np.testing.assert_array_equal(still.loss, classify(stage, state.eval_variables(), source).loss)
