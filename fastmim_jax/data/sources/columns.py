"""The image and label columns of tables, read with pyarrow; shared by parquet and Arrow files."""

import json
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastmim_jax.data.sources.paths import number_classes, numeric_order
from fastmim_jax.data.sources.pread import read_file
from fastmim_jax.errors import UserError

_IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "picture", "photo")
_LABEL_NAMES = ("label", "labels", "class", "class_name", "cls", "target", "category")
_NAME_NAMES = ("file_name", "filename", "image_path", "path", "key", "__key__", "image_id", "id")


class Columns(NamedTuple):
    """The columns of a table that are read.

    image: of binary values, or of structs {"bytes": binary, "path": string} (`nested`).
    path: of the path in a struct, such as "image.path", or None.
    label: of integers or text; None if there is none. classes: its names, where the file has them.
    name: of names or numbers of the records, or None.
    label_problem: the sentence for a table with several possible label columns, or None.
    """

    image: str
    nested: bool
    path: str | None
    label: str | None
    classes: tuple[str, ...]
    name: str | None
    label_problem: str | None


def import_pyarrow(path: str) -> ModuleType:
    """Return the module pyarrow.

    Raises:
      UserError: it is not installed; `path` needs it.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(
            f"{path} needs pyarrow, which is not installed: `pip install pyarrow` (the extra `parquet`)."
        ) from error
    return pyarrow


def choose_columns(schema: Any, path: str) -> Columns:
    """Choose the columns of a table.

    Args:
      schema: pyarrow.Schema; where Hugging Face's `datasets` wrote it, it holds the types Image and
        ClassLabel, which count before names of columns.
      path: of the data set, for messages.

    Raises:
      UserError: no image column, or several.
    """
    features = _features(schema)
    image, nested = _image_column(schema, features, path)
    label, problem = _label_column(schema, features, path)
    names = features.get(label, {}).get("names") or () if label else ()
    others = [field.name for field in schema if _is_text(field.type) or _is_integer(field.type)]
    name = next((name for name in _NAME_NAMES if name in others and name != label), None)
    has_path = nested and schema.field(image).type.get_field_index("path") >= 0
    path_name = f"{image}.path" if has_path else None
    return Columns(image, nested, path_name, label, tuple(map(str, names)), name, problem)


def number_labels(columns: Columns, values: Sequence[Any]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the classes and (n,) int32 labels, -1 for null, of the values of the label column."""
    if columns.classes:
        numbers = [-1 if value is None else int(value) for value in values]
        return columns.classes, np.array(numbers, np.int32)
    return number_classes([None if value is None else str(value) for value in values], numeric_order)


def image_bytes(value: Any, nested: bool) -> bytes:
    """Return the bytes of an image in a cell, as Python sees it.

    Raises:
      OSError: the cell is empty, or names a file that cannot be read.
    """
    if nested and value is not None:
        data, path = value.get("bytes"), value.get("path")
        if data is None and path:
            return read_file(path)
        value = data
    if value is None:
        raise OSError("no image in this row")
    return value


def _features(schema: Any) -> Mapping[str, Mapping[str, Any]]:
    """-> {column: {"_type": ...}} as `datasets` describes them; {} in other files."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(text)["info"]["features"] if text else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _image_column(schema: Any, features: Mapping[str, Any], path: str) -> tuple[str, bool]:
    typed = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    nested = {field.name: _has_bytes(field.type) for field in schema}
    possible = [field.name for field in schema if nested[field.name] or _is_binary(field.type)]
    candidates = [name for name in typed if name in possible] or possible
    if len(candidates) != 1:
        named = [name for name in _IMAGE_NAMES if name in candidates][:1]
        if not named:
            found = f"has {len(candidates)} columns that may be images ({', '.join(candidates)})"
            columns = ", ".join(f"{field.name}: {_short(field.type)}" for field in schema)
            seen = found if candidates else f"has no image column; its columns are {columns or 'none'}"
            raise UserError(
                f"{path} {seen}; expected one with the bytes of image files, of type binary or "
                "struct<bytes, path>, named image if there are several."
            )
        candidates = named
    return candidates[0], nested[candidates[0]]


def _label_column(schema: Any, features: Mapping[str, Any], path: str) -> tuple[str | None, str | None]:
    """-> (label column or None, problem or None)."""
    typed = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    possible = {field.name for field in schema if _is_integer(field.type) or _is_text(field.type)}
    candidates = [name for name in typed if name in possible]
    candidates = candidates or [name for name in _LABEL_NAMES if name in possible]
    if len(candidates) > 1 and "label" not in candidates:
        problem = (
            f"{path} has {len(candidates)} label columns ({', '.join(candidates)}); expected one named "
            "label: rename the one to use."
        )
        return None, problem
    return ("label" if "label" in candidates else next(iter(candidates), None)), None


def _has_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_struct(kind) and any(
        kind.field(i).name == "bytes" and _is_binary(kind.field(i).type) for i in range(kind.num_fields)
    )


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_integer(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_integer(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _short(kind: Any) -> str:
    text = str(kind)
    return text if len(text) <= 40 else text[:37] + "..."
