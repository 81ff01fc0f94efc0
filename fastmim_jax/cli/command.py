"""A command: its flags, and its help."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from fastmim_jax.cli.flags import FLAGS, flag_name, flag_usage

Run = Callable[[Any, list[str]], int | None]  # of a command: flag values, paths


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

    def as_typed(self, text: str) -> str:
        """Return a message with config keys as the command takes them: --config.KEY, --set=KEY ..."""
        if "config" in self.flags:
            return text
        for key in ("value_range", "nodata", "workers"):
            if key in self.flags:
                text = re.sub(rf"--config\.(data|run)\.{key}\b", f"--{key}", text)
        takes_keys = any(flag_name(flag) == "set" for flag in self.flags)
        return text.replace("--config.", "--set=") if takes_keys else text


def usage(name: str, command: Command) -> str:
    """Return how to type a command, in one line."""
    words = [*command.paths, *(flag_usage(flag) for flag in command.required)]
    words += [f"[{flag_usage(flag)}]" for flag in command.optional]
    more = ["[--config.KEY=VALUE ...]"] if "config" in command.flags else []
    return " ".join([f"fastmim {name}", *words, *more])


def command_help(name: str, command: Command) -> str:
    """Return the help of a command."""
    lines = [f"  {flag_usage(flag):<28}  {FLAGS[flag].help}" for flag in command.flags]
    if "config" in command.flags:
        lines.append(f"  {'--config.KEY=VALUE':<28}  a key of the config; `fastmim config` explains all")
    return "\n".join([f"{command.summary}\n\n  {usage(name, command)}\n", *lines])
