"""The command line: the flags of every command, parsed by absl, and the help made from the same table."""

import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from fastmim_jax.config import PATH_KEYS
from fastmim_jax.data.sources.joined import SEPARATOR, absolute_path, split_path
from fastmim_jax.errors import UserError
from fastmim_jax.paths import local_path

Run = Callable[[flags.FlagValues, list[str]], int | None]  # of a command: flag values, paths


class Flag(NamedTuple):
    """A flag.

    value: what to type after "=", in the help; "" for a boolean.
    define: the function of absl that defines it, see `_define`.
    name: what to type before "=", where another flag has the name as its key in FLAGS.
    resolve: (path, "--NAME=") -> the path that is meant, of a flag with a path.
    """

    value: str
    help: str
    define: Callable = flags.DEFINE_string
    default: Any = None
    options: dict[str, Any] = {}
    name: str = ""
    resolve: Callable[[str, str], str] | None = None


def _integer(value, help, least, default=None):
    return Flag(value, help, flags.DEFINE_integer, default, dict(lower_bound=least))


def _words(value, help):
    return Flag(value, help, flags.DEFINE_list, [])


def _boolean(help):
    return Flag("", help, flags.DEFINE_bool, False)


def _path(value, help):
    return Flag(value, help, resolve=local_path)


def _data(value, help):
    return Flag(value, help, resolve=_data_path)


def _data_path(path: str, typed: str = "", resolve: Callable = split_path) -> str:
    """Return a path of data sets, which may be FIRST::SECOND, as `resolve` returns it."""
    try:
        resolved = resolve(path)
    except UserError as error:
        raise UserError(f"{typed}{error}") from error
    return resolved if isinstance(resolved, str) else SEPARATOR.join(resolved)


FLAGS = {
    "config": Flag(
        "FILE.py[:VARIANT]", "a config file such as configs/quickstart.py", config_flags.DEFINE_config_file
    ),
    "workdir": _path("DIR", "folder of the run; created if missing"),
    "accept_changed_data": _boolean("resume although the training data changed; recorded in data.json"),
    "distributed": _boolean(
        "several processes: JAX finds the others (Slurm, Open MPI, TPU pods, Kubernetes)"
    ),
    "coordinator": Flag("HOST:PORT", "of process 0, where nothing finds the others: any free port"),
    "processes": _integer("N", "number of all processes, with --coordinator", 1),
    "process": _integer("I", "number of this process, with --coordinator", 0),
    "images": _data("FILE_OR_DIR", "folder, data set or image to read instead of the run's data"),
    "test": _data("DIR", "labelled data to test on; default: the val or test split of --images"),
    "split": Flag("NAME", "split of --images; default: val, test or train, the first that exists"),
    "out": _path("FILE", "file to write"),
    "count": _integer("N", "images at most; default: 6 to draw, 20,000 to probe", 1),
    "folds": _integer("N", "folds of cross-validation; 0: test data, or else 5 folds", 0, 0),
    "step": _integer("N", "step of the checkpoint; default: the best or the newest", 0),
    "kinds": _words("ridge,knn", "probes: ridge, knn, linear, attentive; default: ridge,knn"),
    "layers": _words('"block 12 mean"', "layers to write; default: the last"),
    "format": Flag("NAME", "format of the source, such as mae_vit or timm_swin; default: detected"),
    "key": Flag("NAME", "entry of a file that has the arrays, such as model_ema"),
    "prefix": Flag("NAME", "prefix of the arrays to take, such as base_encoder; default: detected"),
    "to": Flag("NAME", "official, timm, hf, torchvision, mmpretrain, mmdet, mmseg, stablehlo or onnx"),
    "image_size": _words("224", "pixels: side, or height,width, to resample positions to"),
    "set": Flag(
        "KEY=VALUE",
        "config key that the arrays do not determine, such as method.backbone.heads=6; repeatable",
        flags.DEFINE_multi_string,
        [],
    ),
    "encoder_only": _boolean("leave out the decoder or head"),
    "partial": _boolean("convert although arrays are missing (initialised randomly) or unknown (left out)"),
    "overwrite": _boolean("replace an earlier export at the destination; nothing else"),
    "records_format": Flag(
        "jpeg",
        "jpeg (smallest), yuv420 (fastest photos) or raw (any channels and bits)",
        default="jpeg",
        name="format",
    ),
    "short_side": _integer("256", "pixels; larger images are shrunk to it, 0 keeps their size", 0, 256),
    "quality": _integer("90", "of jpeg, 1 to 100", 1),
    "channels": _integer("3", "of the images: 3 makes RGB, 1 luma", 1, 3),
    "value_range": _words("0,1", "values for black and white, for raw; default: measured"),
    "nodata": Flag("-9999", "value of no measurement, for raw", flags.DEFINE_float),
    "splits": _words("train,val", "splits to prepare; default: all"),
    "topology": Flag("v5e:2x4", "hardware: v5p:4x4x4, v5e:16x16x2slices, h100:8, a100:2x8 (nodes x GPUs)"),
    "batch": _integer("N", "images per update; default: the config's", 1),
    "records": _integer("N", "images of the training data; default: those of ImageNet-1k", 1),
    "workers": _integer("N", "processes; default: one per core", 1),
    "check": _boolean("only scan: print the facts, write nothing, exit with 1 if files are unreadable"),
    "with_paths": _boolean("keep local paths in the files that are written, such as of the data"),
    "synthetic": _boolean("random images in memory instead of the run's data: only the step is measured"),
    "profile": _boolean("trace some steps: time of products, attention, norms, GELU, copies and others"),
    "show_batch": _path("FILE.png", "draw a training batch as the network sees it, and do nothing else"),
}


class Command(NamedTuple):
    """A command.

    run: flag values -> exit code or None; the first line of its docstring is the help.
    required, optional: keys of FLAGS.
    paths: names of the paths without a flag, required unless they stand in brackets.
    less_memory: what to do if the memory does not suffice.
    """

    run: Run
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    less_memory: str = "end other programs that use this memory"

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of all flags."""
        return self.required + self.optional

    @property
    def summary(self) -> str:
        """One line for the help."""
        return (self.run.__doc__ or "").partition("\n")[0]


def escape_unprintable() -> None:
    """Escape what the terminal cannot show, such as names of files, so that it ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def usage(name: str, command: Command) -> str:
    """Return how to type a command, in one line."""
    words = [*command.paths, *(_typed(flag) for flag in command.required)]
    words += [f"[{_typed(flag)}]" for flag in command.optional]
    more = ["[--config.KEY=VALUE ...]"] if "config" in command.flags else []
    return " ".join([f"fastmim {name}", *words, *more])


def command_help(name: str, command: Command) -> str:
    """Return the help of a command."""
    lines = [f"  {_typed(flag):<28}  {FLAGS[flag].help}" for flag in command.flags]
    if "config" in command.flags:
        lines.append(f"  {'--config.KEY=VALUE':<28}  a key of the config, see fastmim_jax/config.py")
    return "\n".join([f"{command.summary}\n\n  {usage(name, command)}\n", *lines])


def _name(flag):
    """Return the name of a flag as it is typed, of its key in FLAGS."""
    return FLAGS[flag].name or flag


def _typed(flag):
    value = FLAGS[flag].value
    return f"--{_name(flag)}={value}" if value else f"--{_name(flag)}"


def parse(name: str, command: Command, argv: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
    """Parse the words after a command's name.

    Returns:
      (flag values, paths without a flag).

    Raises:
      UserError: a flag that the command does not have or lacks, a value or config that cannot be read.
    """
    argv = [_find_config(word) for word in argv]
    values = _define(command, argv)
    try:
        paths = values([f"fastmim {name}", *argv])[1:]
        given = {flag: values[_name(flag)].value for flag in command.flags}
        given |= {"config": values.config} if "config" in given else {}  # raises if it failed to load
    except UserError:
        raise
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown_flag(name, command, error)) from error
    except AttributeError as error:
        raise UserError(_unknown_key(error)) from error
    except (flags.Error, OSError, ValueError, TypeError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        seen = lines[-1] if isinstance(error, OSError) else lines[0]
        raise UserError(f"{seen} (see `fastmim {name} --help`)") from error
    _check_paths(name, command, paths)
    _resolve_paths(command, values)
    for flag in command.required:
        if given[flag] is None:
            raise UserError(f"fastmim {name} needs --{flag}: type {_typed(flag)} ({FLAGS[flag].help})")
    of = {"SRC": _data_path}
    return values, [
        of.get(kind, local_path)(path) for path, kind in zip(paths, command.paths, strict=False)
    ]


def _resolve_paths(command, values):
    """Replace the paths in flags and in the config by those that are meant."""
    for flag in command.flags:
        name, resolve = _name(flag), FLAGS[flag].resolve
        if resolve and values[name].value:
            values[name].value = resolve(values[name].value, f"--{name}=")
    if "config" in command.flags and values.config is not None:
        for key in PATH_KEYS:
            _resolve_key(values.config, key)


def _resolve_key(config, key):
    """Make the path of a config key absolute: the saved config is opened from other working directories."""
    section, _, name = key.rpartition(".")
    section = config.get(section) if section else config
    path = section.get(name) if section else None
    if isinstance(path, str) and path:
        section[name] = (
            os.path.abspath(local_path(path, f"--config.{key}="))
            if key == "init"
            else _data_path(path, f"--config.{key}=", absolute_path)
        )


def _define(command, argv):
    """Return the flags of a command, unparsed; flags --config.KEY are defined from `argv`."""
    values = flags.FlagValues()
    for key in command.flags:
        flag, name = FLAGS[key], _name(key)
        options = dict(flag.options, flag_values=values)
        if name == "config":
            flag.define(name, flag.default, flag.help, sys_argv=["fastmim", *argv], **options)
        else:
            flag.define(name, flag.default, flag.help, **options)
    return values


def _check_paths(name, command, paths):
    if paths and not command.paths:
        raise UserError(f"'{paths[0]}' is not a flag: flags look like --workdir=DIR")
    required = sum(not path.startswith("[") for path in command.paths)
    if not required <= len(paths) <= len(command.paths):
        seen = "1 path was" if len(paths) == 1 else f"{len(paths)} paths were"
        more = f" or {len(command.paths)}" if required < len(command.paths) else ""
        typed = f"fastmim {name} {' '.join(command.paths)}"
        raise UserError(f"{seen} given, expected {required}{more}: type {typed}")


def _unknown_flag(name, command, error):
    if "config" in command.flags and error.flagname.startswith("config."):
        return f"--{error.flagname} needs a config: type {_typed('config')} too"
    names = ", ".join(f"--{_name(flag)}" for flag in command.flags)
    _, _, hint = str(error).partition("Did you mean: ")
    hint = f"; did you mean --{hint.removesuffix('?').strip().split(' ')[0]}?" if hint else ""
    return f"fastmim {name} has no flag --{error.flagname}; its flags are: {names}{hint}"


def _find_config(word):
    """Resolve --config=configs/NAME.py where the working directory has no such folder."""
    flag, _, path = word.partition("=")
    if flag.lstrip("-") != "config" or not path:
        return word
    path = local_path(path, "--config=")
    file, _, variant = path.partition(":")
    package = Path(__file__).parent
    candidates = [Path(file), package.parent / file, package / file]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        names = sorted(path.name for path in (package.parent / "configs").glob("*.py"))
        raise UserError(
            f"{file} does not exist: type --config=configs/NAME.py[:VARIANT]; choose NAME.py from: "
            + ", ".join(names)
        )
    return f"{flag}={found}" + (f":{variant}" if variant else "")


def _unknown_key(error):
    text = str(error).strip("\"'").replace("\\n", "\n").replace("\\'", "'")
    key, *hint = [line.strip("'\" ") for line in text.splitlines()]
    return f"the config has no key '{key}'; " + (
        hint[0][0].lower() + hint[0][1:] if hint else "its keys are in fastmim_jax/config.py"
    )


class _PrintOnce(logging.Handler):
    """Print each message once, on the first process; those with `every_process` on the one they are of."""

    def __init__(self) -> None:
        super().__init__()
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text, jax = record.getMessage(), sys.modules.get("jax")
        shown = jax is None or jax.process_index() == 0 or getattr(record, "every_process", False)
        if shown and text not in self._printed:
            print(text, file=sys.stderr, flush=True)
        self._printed.add(text)


def print_warnings() -> None:
    """Print the package's warnings, each once."""
    package_log = logging.getLogger("fastmim_jax")
    package_log.handlers, package_log.propagate = [_PrintOnce()], False
