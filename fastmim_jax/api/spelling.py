"""Sentences of the commands with Python's spelling of what to type."""

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fastmim_jax.errors import UserError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_KEY = re.compile(r"--config\.([\w.]+)(?:=('[^']*'|\"[^\"]*\"|[^\s,;)]+))?")
_FLAG = re.compile(
    r"--(images|test|kinds|legend|depth_unit|eval_mode|eval_resize|folds|count|layers|step|to|overwrite|out|encoder_only|image_size|accept_changed_data|extend|workdir|prefix|partial)\b(?:=([^\s,;)]+))?"
)
_NAMES = {"workdir": "out"}  # other names of flags
_SWITCHES = ("accept_changed_data", "encoder_only", "extend", "overwrite", "partial")
_PLAIN = re.compile(r"^(-?[\d.e-]+|True|False|None|\(.*\))$")


def to_python(sentence: str) -> str:
    """Return a sentence with keywords for flags: --config.data.path=DIR becomes data__path='DIR'."""
    return _FLAG.sub(_flag, _KEY.sub(_key, sentence))


def python_errors(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a function raise UserError with Python's spelling."""

    @functools.wraps(function)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            text = to_python(str(error))
            if text == str(error):
                raise
            raise type(error)(text) from None

    return wrapped


def _key(match: re.Match) -> str:
    return _keyword(match[1].rstrip(".").replace(".", "__"), match[2]) + "." * match[1].endswith(".")


def _flag(match: re.Match) -> str:
    return _keyword(_NAMES.get(match[1], match[1]), "True" if match[1] in _SWITCHES else match[2])


def _keyword(name: str, value: str | None) -> str:
    if value is None:
        return name
    tail = value[len(value.rstrip(".")) :]
    value = value.rstrip(".")
    if value[:1] in "'\"" and value[-1:] == value[:1]:
        value = value[1:-1]
    return f"{name}={value if _PLAIN.match(value) else repr(value)}{tail}"
