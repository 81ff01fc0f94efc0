"""Parsing of the words after a command, by absl: flag values, a config, paths."""

import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from fastmim_jax.cli.command import Command
from fastmim_jax.cli.flags import FLAGS, data_path, flag_name, flag_usage
from fastmim_jax.config import PATH_KEYS
from fastmim_jax.errors import UserError
from fastmim_jax.paths import local_path


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
        given = {flag: values[flag_name(flag)].value for flag in command.flags}
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
            raise UserError(f"fastmim {name} needs --{flag}: type {flag_usage(flag)} ({FLAGS[flag].help})")
    of = {"SRC": data_path}
    return values, [
        of.get(kind, local_path)(path) for path, kind in zip(paths, command.paths, strict=False)
    ]


def _resolve_paths(command, values):
    """Replace the paths in flags and in the config by those that are meant."""
    for flag in command.flags:
        name, resolve = flag_name(flag), FLAGS[flag].resolve
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
            else data_path(path, f"--config.{key}=", absolute=True)
        )


def _define(command, argv):
    """Return the flags of a command, unparsed; flags --config.KEY are defined from `argv`."""
    values = flags.FlagValues()
    for key in command.flags:
        flag, name = FLAGS[key], flag_name(key)
        define, options = getattr(flags, f"DEFINE_{flag.kind}", None), dict(flag.options)
        if flag.kind == "config":
            define, options = config_flags.DEFINE_config_file, dict(sys_argv=["fastmim", *argv])
        define(name, flag.default, flag.help, flag_values=values, **options)
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
        return f"--{error.flagname} needs a config: type {flag_usage('config')} too"
    names = ", ".join(f"--{flag_name(flag)}" for flag in command.flags)
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
    package = Path(__file__).parents[1]
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
