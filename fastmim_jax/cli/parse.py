"""Parsing of the words after a command, by absl: flag values, a config, paths."""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from fastmim_jax.cli.command import Command
from fastmim_jax.cli.flags import FLAGS, data_path, flag_name, flag_usage, local_data_path
from fastmim_jax.config import PATH_KEYS, pretrain_config
from fastmim_jax.config_keys import suggest_key
from fastmim_jax.errors import UserError, did_you_mean
from fastmim_jax.paths import absolute_place, local_path, place
from fastmim_jax.recipes import find_config_file, load_config
from fastmim_jax.saved_config import flatten

# Words that users try, and the flags that they mean.
FLAG_SYNONYMS = {
    "output": "out",
    "output_dir": "workdir",
    "outdir": "workdir",
    "logdir": "workdir",
    "dir": "workdir",
    "checkpoint": "workdir",
    "ckpt": "workdir",
    "run": "workdir",
    "cfg": "config",
    "conf": "config",
    "image": "images",
    "input": "images",
    "data": "images",
    "path": "images",
    "layer": "layers",
    "probe": "kinds",
    "kind": "kinds",
    "fold": "folds",
    "n": "count",
    "size": "image_size",
    "target": "to",
    "force": "overwrite",
    "chip": "topology",
    "hardware": "topology",
    "trace": "profile",
}


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
        raise UserError(_unknown_flag(name, command, error, argv, _load_quietly(argv))) from error
    except AttributeError as error:
        raise UserError(_unknown_key(error, argv)) from error
    except (flags.Error, OSError, ValueError, TypeError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        seen = lines[-1] if isinstance(error, OSError) else lines[0]
        raise UserError(f"{seen} (see `fastmim {name} --help`)") from error
    _check_paths(name, command, paths)
    _resolve_paths(command, values)
    for flag in command.required:
        if given[flag] is None:
            raise UserError(f"fastmim {name} needs --{flag}: type {flag_usage(flag)} ({FLAGS[flag].help})")
    of = {"SRC": local_data_path, "SOURCE": place, "A": place, "B": place}
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
            absolute_place(path, f"--config.{key}=")
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


def _flag_for(word, command):
    """Return the flag that a word without one is most likely for."""
    if ".py" in word and "config" in command.flags:
        return f"type --config={word}"
    bare = word.partition("=")[0]
    if bare in command.flags:
        return f"type --{word}" if "=" in word else f"type {flag_usage(bare)}, with = and without a space"
    if bare.startswith("config."):
        return f"type --{word}"
    return "flags look like --workdir=DIR"


def _check_paths(name, command, paths):
    if paths and not command.paths:
        raise UserError(f"'{paths[0]}' is not a flag: {_flag_for(paths[0], command)}")
    required = sum(not path.startswith("[") for path in command.paths)
    if not required <= len(paths) <= len(command.paths):
        seen = "1 path was" if len(paths) == 1 else f"{len(paths)} paths were"
        more = f" or {len(command.paths)}" if required < len(command.paths) else ""
        typed = f"fastmim {name} {' '.join(command.paths)}"
        raise UserError(f"{seen} given, expected {required}{more}: type {typed}")


def _unknown_flag(name, command, error, argv, config):
    """Return the sentence for a flag that a command does not have, with the one that was meant."""
    word = error.flagname
    typed = next(
        (one.lstrip("-").partition("=")[2] for one in argv if one.lstrip("-").startswith(word)), ""
    )
    if "config" in command.flags and word.startswith("config."):
        return f"--{word} needs a config: type {flag_usage('config')} too"
    own = [flag_name(flag) for flag in command.flags]
    meant = FLAG_SYNONYMS.get(word.lower(), word)
    if meant in own:
        hint = f"; did you mean --{meant}?"
    elif "config" in command.flags and (key := suggest_key(word, _keys(config))):
        value = f"={typed}" if typed else ""
        hint = f"; did you mean --config.{key}{value}?"
    else:
        hint = did_you_mean(word, own, "--")
    names = ", ".join(f"--{one}" for one in own)
    return f"fastmim {name} has no flag --{word}; its flags are: {names}{hint}"


def _keys(config):
    """Return the keys of a config, or of the default one."""
    return flatten(pretrain_config() if config is None else config)


def _find_config(word):
    """Resolve --config=configs/NAME.py where the working directory has no such folder."""
    flag, _, path = word.partition("=")
    if flag.lstrip("-") != "config" or not path:
        return word
    path = local_path(path, "--config=")
    file, _, variant = path.partition(":")
    return f"{flag}={find_config_file(file)}" + (f":{variant}" if variant else "")


def _unknown_key(error, argv):
    """Return the sentence for a key that a config does not have, with the one that was meant."""
    text = str(error).strip("\"'").replace("\\n", "\n").replace("\\'", "'")
    key = text.splitlines()[0].strip("'\" ")
    typed = [word.partition("=")[0].lstrip("-").removeprefix("config.") for word in argv]
    whole = next((word for word in typed if word.rpartition(".")[2] == key.rpartition(".")[2]), key)
    near = suggest_key(whole, _keys(_load_quietly(argv)))
    hint = f"did you mean --config.{near}?" if near else "`fastmim config --config=...` lists all"
    return f"the config has no key '{whole}'; {hint}"


def _load_quietly(argv):
    """Return the config that --config names, without changes; None if it cannot be loaded."""
    name = next((word.partition("=")[2] for word in argv if word.lstrip("-").startswith("config=")), "")
    try:
        return load_config(name) if name else None
    except Exception:  # it is refused in a sentence of its own
        return None
