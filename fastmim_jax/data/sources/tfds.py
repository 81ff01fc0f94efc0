"""TFDS data sets prepared as ArrayRecord, read without TensorFlow."""

import os
import re

import numpy as np

from fastmim_jax.errors import UserError

_UNKNOWN = -2  # a label not read yet
_NAME_KEYS = ("file_name", "filename", "image/filename", "image_id", "id")


class TFDSSource:
    """Encoded images of one split, as they were stored.

    The image is the feature of type Image (the one called 'image' where there are several), the
    label the feature of type ClassLabel, if any.
    """

    def __init__(self, where, split="train", data_dir=None):
        """Open a data set.

        Args:
          where: the directory that holds dataset_info.json, or a TFDS name such as
            'imagenette/full-size-v2'.
          split: a split, slices such as 'train[:10%]' allowed.
          data_dir: where TFDS keeps its data sets; only with a name.

        Raises:
          UserError: TFDS missing, unknown name, not prepared, not ArrayRecord, unknown split, or
            no image feature.
        """
        self.where, self.split, self.data_dir = where, split, data_dir
        tfds = _import_tfds()
        builder = _builder(tfds, where, data_dir)
        features = builder.info.features
        kinds = {key: type(features[key]) for key in features}
        images = [key for key in kinds if issubclass(kinds[key], tfds.features.Image)]
        if not images:
            raise UserError(
                f"The TFDS data set {where} has no image feature, only {', '.join(kinds)}; "
                "expected one of type tfds.features.Image."
            )
        labels = [key for key in kinds if issubclass(kinds[key], tfds.features.ClassLabel)]
        self._image = "image" if "image" in images else images[0]
        self._label = "label" if "label" in labels else next(iter(labels), None)
        self._name = next((key for key in _NAME_KEYS if key in kinds), None)
        self.classes = tuple(features[self._label].names) if self._label else ()
        skip = {key: tfds.decode.SkipDecoding() for key in images}
        self._records = _data_source(builder, where, split, skip)
        self._labels = np.full(len(self._records), _UNKNOWN, np.int32)

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        record = self._records[range(len(self))[index]]
        if self._label:  # remembered, since label(index) is usually asked next
            self._labels[index] = record[self._label]
        return record[self._image]

    def name(self, index):
        position = f"{self.split} {range(len(self))[index]}"
        if self._name:
            name = self._records[range(len(self))[index]][self._name]
            name = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
            return f"{name} [{position}]"
        return f"[{position}]"

    def label(self, index):
        if not self._label:
            return -1
        if self._labels[index] == _UNKNOWN:
            self._labels[index] = self._records[range(len(self))[index]][self._label]
        return int(self._labels[index])

    def label_problem(self):
        """One sentence on why it cannot be used where labels are needed, or None."""
        if not self._label:
            kinds = "expected a feature of type tfds.features.ClassLabel"
            return f"The TFDS data set {self.where} has no label feature; {kinds}."
        if len(self.classes) < 2:
            return f"The TFDS data set {self.where} has a single class; expected two at least."
        if self.label(0) < 0:
            return (
                f"The split {self.split!r} of the TFDS data set {self.where} comes without labels "
                "(they are -1); expected a split that has them, such as 'train' or 'validation'."
            )
        return None

    def __reduce__(self):  # a worker opens the files for itself
        return TFDSSource, (self.where, self.split, self.data_dir)

    def __repr__(self):
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"TFDSSource({self.where!r}, {self.split!r}, {len(self):,} images{classes})"


def split_names(where, data_dir=None):
    """Names of the splits of a data set, see TFDSSource for `where`, `data_dir` and errors."""
    return tuple(_builder(_import_tfds(), where, data_dir).info.splits)


def _import_tfds():
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"TFDS data sets need a package that is not installed ({error}); "
            "`pip install tensorflow-datasets array-record importlib-resources`."
        ) from None
    return tfds


def _builder(tfds, where, data_dir):
    if os.path.isdir(where) and data_dir is None:
        try:
            return tfds.builder_from_directory(where)
        except Exception as error:  # anything from a missing file to broken JSON or an old format
            raise UserError(
                f"{where} cannot be read as a TFDS data set ({_first_line(error)}); expected a "
                "directory with dataset_info.json, features.json and *.array_record files."
            ) from error
    builder = _named_builder(tfds, where, data_dir)
    if not builder.is_prepared():
        raise UserError(
            f"The TFDS data set {where} is not prepared in {builder.data_dir}; "
            f"{_how_to_prepare(where, data_dir)}"
        )
    return builder


def _named_builder(tfds, name, data_dir):
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise UserError(
            f"TFDS knows no data set called {name!r}; expected a name from "
            "`python -c 'import tensorflow_datasets as t; print(t.list_builders())'`."
        ) from None
    except ImportError as error:
        raise UserError(
            f"The TFDS data set {name} needs a package that is not installed ({error}); "
            f"`pip install {(error.name or 'importlib-resources').replace('_', '-')}`."
        ) from None
    except Exception as error:  # unknown config or version, unreadable directory
        raise UserError(
            f"The TFDS data set {name} cannot be opened ({_first_line(error)}); expected "
            "`tfds:NAME`, `tfds:NAME/CONFIG` or either with `:DATA_DIR` behind it."
        ) from error


def _data_source(builder, where, split, decoders):
    splits = list(builder.info.splits)
    if re.split(r"[\[+]", split)[0] not in splits:
        raise UserError(
            f"The TFDS data set {where} has no split {split!r}; expected one of {', '.join(splits)}."
        )
    try:
        records = builder.as_data_source(split, decoders=decoders)
    except NotImplementedError:
        raise UserError(
            f"The TFDS data set {where} is stored as {builder.info.file_format.value}, which has "
            f"no random access; {_how_to_prepare(builder.info.name, None)}"
        ) from None
    except ValueError as error:
        raise UserError(
            f"The split {split!r} of {where} cannot be read ({_first_line(error)}); "
            f"expected one of {', '.join(splits)}, or a part such as '{splits[0]}[:10%]'."
        ) from error
    if not len(records):
        raise UserError(f"The split {split!r} of {where} is empty; expected images.")
    return records


def _how_to_prepare(name, data_dir):
    where = f", data_dir={data_dir!r}" if data_dir else ""
    return (
        'prepare it with `python -c "import tensorflow_datasets as t; '
        f"t.builder({name!r}{where}, file_format='array_record').download_and_prepare()\"` "
        "(most data sets need TensorFlow for this step, on any machine)."
    )


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
