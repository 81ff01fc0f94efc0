"""TFDS data sets prepared as ArrayRecord, read without TensorFlow."""

import os
import re
from types import ModuleType
from typing import Any

import numpy as np

from fastmim_jax.data.sources.listing import subfolders
from fastmim_jax.errors import UserError

_NOT_READ = -2  # label of a record that was not read yet
_NAME_KEYS = ("file_name", "filename", "image/filename", "image_id", "id")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def matches(path: str) -> bool:
    """Return whether `path` is 'tfds:NAME', 'tfds:NAME:DATA_DIR' or a prepared data set's directory."""
    return path.startswith("tfds:") or (os.path.isdir(path) and bool(_prepared_directories(path)))


def split_names(path: str) -> tuple[str, ...]:
    """Return the names of the splits.

    Raises:
      UserError: TFDS is missing, or the data set cannot be opened.
    """
    return tuple(_builder(_import_tfds(), *_resolve(path)).info.splits)


def open_split(path: str, split: str) -> "TFDSSource":
    """Open a split, see `TFDSSource`.

    Raises:
      UserError: see `TFDSSource`; or a directory with several versions of a data set.
    """
    dataset, data_dir = _resolve(path)
    return TFDSSource(dataset, split, data_dir)


class TFDSSource:
    """Encoded images of one split, as stored.

    The image is the feature of type Image, the label the feature of type ClassLabel, if any; of several,
    the feature named 'image' or 'label', or else the first.
    """

    notices = ()
    names_in_memory = False

    def __init__(self, dataset: str, split: str = "train", data_dir: str | None = None):
        """Open a data set.

        Args:
          dataset: a TFDS name such as 'imagenette/full-size-v2', or the directory that holds
            dataset_info.json.
          split: a split, slices such as 'train[:10%]' allowed.
          data_dir: the directory of TFDS data sets; only with a TFDS name, None for TFDS's default.

        Raises:
          UserError: TFDS missing, unknown name, not prepared, not ArrayRecord, unknown split, or
            no image feature.
        """
        self.dataset, self.split, self.data_dir = dataset, split, data_dir
        tfds = _import_tfds()
        builder = _builder(tfds, dataset, data_dir)
        features = builder.info.features
        kinds = {key: type(features[key]) for key in features}
        images = [key for key in kinds if issubclass(kinds[key], tfds.features.Image)]
        if not images:
            raise UserError(
                f"The TFDS data set {dataset} has no image feature, only {', '.join(kinds)}; "
                "expected one of type tfds.features.Image."
            )
        labels = [key for key in kinds if issubclass(kinds[key], tfds.features.ClassLabel)]
        self._image = "image" if "image" in images else images[0]
        self._label = "label" if "label" in labels else next(iter(labels), None)
        self._file_name = next((key for key in _NAME_KEYS if key in kinds), None)
        self.classes = tuple(features[self._label].names) if self._label else ()
        encoded = {key: tfds.decode.SkipDecoding() for key in images}
        self._records = _data_source(builder, dataset, split, encoded)
        self._labels = np.full(len(self._records), _NOT_READ, np.int32)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> bytes | np.ndarray:
        record = self._records[range(len(self))[index]]
        if self._label:  # cached: label(index) is usually called next
            self._labels[index] = record[self._label]
        return record[self._image]

    def name(self, index: int) -> str:
        position = f"{self.split} {range(len(self))[index]}"
        if self._file_name:
            name = self._records[range(len(self))[index]][self._file_name]
            name = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
            return f"{name} [{position}]"
        return f"[{position}]"

    def label(self, index: int) -> int:
        if not self._label:
            return -1
        if self._labels[index] == _NOT_READ:
            self._labels[index] = self._records[range(len(self))[index]][self._label]
        return int(self._labels[index])

    def label_problem(self) -> str | None:
        if not self._label:
            kinds = "expected a feature of type tfds.features.ClassLabel"
            return f"The TFDS data set {self.dataset} has no label feature; {kinds}."
        if len(self.classes) < 2:
            return f"The TFDS data set {self.dataset} has a single class; expected at least 2."
        if self.label(0) < 0:
            return (
                f"The split {self.split!r} of the TFDS data set {self.dataset} comes without labels "
                "(they are -1); expected a split that has them, such as 'train' or 'validation'."
            )
        return None

    def __reduce__(self) -> tuple:  # each worker process opens the files itself
        return TFDSSource, (self.dataset, self.split, self.data_dir)

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"TFDSSource({self.dataset!r}, {self.split!r}, {len(self):,} images{classes})"


def _resolve(path: str) -> tuple[str, str | None]:
    """-> the arguments `dataset` and `data_dir` of `TFDSSource`."""
    if path.startswith("tfds:"):
        name, _, data_dir = path.removeprefix("tfds:").partition(":")
        return name, data_dir or None
    directories = _prepared_directories(path)
    if len(directories) > 1:
        versions = ", ".join(map(os.path.basename, directories))
        raise UserError(
            f"{path} holds {len(directories)} versions of a TFDS data set ({versions}); "
            f"expected one, for example {directories[-1]}."
        )
    return directories[0], None


def _prepared_directories(path: str) -> list[str]:
    """-> the directories that hold dataset_info.json: `path` itself, or its versions."""

    def prepared(folder: str) -> bool:
        return os.path.isfile(os.path.join(folder, "dataset_info.json"))

    if prepared(path):
        return [path]
    versions = [os.path.join(path, name) for name in subfolders(path) if _VERSION.fullmatch(name)]
    return [folder for folder in versions if prepared(folder)]


def _import_tfds() -> ModuleType:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"TFDS data sets need a package that is not installed ({error}); "
            "`pip install tensorflow-datasets array-record importlib-resources`."
        ) from None
    return tfds


def _builder(tfds: ModuleType, name: str, data_dir: str | None) -> Any:
    if os.path.isdir(name) and data_dir is None:
        try:
            return tfds.builder_from_directory(name)
        except Exception as error:  # anything from a missing file to broken JSON or an old format
            raise UserError(
                f"{name} cannot be read as a TFDS data set ({_first_line(error)}); expected a "
                "directory with dataset_info.json, features.json and *.array_record files."
            ) from error
    builder = _named_builder(tfds, name, data_dir)
    if not builder.is_prepared():
        raise UserError(
            f"The TFDS data set {name} is not prepared in {builder.data_dir}; "
            f"{_how_to_prepare(name, data_dir)}"
        )
    return builder


def _named_builder(tfds: ModuleType, name: str, data_dir: str | None) -> Any:
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise UserError(
            f"TFDS has no data set called {name!r}; expected a name from "
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
            "`tfds:NAME` or `tfds:NAME/CONFIG`, or either followed by `:DATA_DIR`."
        ) from error


def _data_source(builder: Any, name: str, split: str, decoders: dict[str, Any]) -> Any:
    splits = list(builder.info.splits)
    if re.split(r"[\[+]", split)[0] not in splits:
        raise UserError(
            f"The TFDS data set {name} has no split {split!r}; expected one of {', '.join(splits)}."
        )
    try:
        records = builder.as_data_source(split, decoders=decoders)
    except NotImplementedError:
        raise UserError(
            f"The TFDS data set {name} is stored as {builder.info.file_format.value}, which has "
            f"no random access; {_how_to_prepare(builder.info.name, None)}"
        ) from None
    except ValueError as error:
        raise UserError(
            f"The split {split!r} of {name} cannot be read ({_first_line(error)}); "
            f"expected one of {', '.join(splits)}, or a part such as '{splits[0]}[:10%]'."
        ) from error
    if not len(records):
        raise UserError(f"The split {split!r} of {name} is empty; expected images.")
    return records


def _how_to_prepare(name: str, data_dir: str | None) -> str:
    option = f", data_dir={data_dir!r}" if data_dir else ""
    return (
        'prepare it with `python -c "import tensorflow_datasets as t; '
        f"t.builder({name!r}{option}, file_format='array_record').download_and_prepare()\"` "
        "(most data sets need TensorFlow for this step, on any machine)."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
