"""`fastmim COMMAND`: dispatch to the commands, and exit codes."""

import sys
from collections.abc import Sequence

from fastmim_jax import __version__
from fastmim_jax.cli.check_inputs import check_inputs
from fastmim_jax.cli.command import command_help, usage
from fastmim_jax.cli.commands import COMMAND_SYNONYMS, COMMANDS
from fastmim_jax.cli.terminal import escape_unprintable, print_warnings
from fastmim_jax.errors import UserError, did_you_mean

HELP = ("-h", "-help", "--help", "help")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 different (`verify`), 2 bad input (one sentence on stderr)."""
    escape_unprintable()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
    except BaseException as error:
        peers = _peers()
        if peers is None:
            _refuse(error, words)
        else:
            from fastmim_jax.train.ending import end_together

            end_together(peers, error)
        raise
    peers = _peers()
    if peers is not None:
        peers.close()
    if code:
        sys.exit(code)


def _refuse(error, words):
    """Exit with a sentence, if an error has one."""
    if isinstance(error, UserError):
        command = COMMANDS.get(next(iter(words), ""), COMMANDS["pretrain"])
        print(f"fastmim: {command.as_typed(str(error))}", file=sys.stderr)
        sys.exit(2)
    if isinstance(error, KeyboardInterrupt):
        print("fastmim: interrupted", file=sys.stderr)
        sys.exit(130)
    if isinstance(error, Exception):
        from fastmim_jax.train.out_of_memory import is_out_of_memory, sentence

        if is_out_of_memory(error):
            print(f"fastmim: {sentence(error, COMMANDS[words[0]].less_memory)}", file=sys.stderr)
            sys.exit(2)


def _peers():
    """Return the other processes of a run, without importing anything for a command that has none."""
    module = sys.modules.get("fastmim_jax.train.peers")
    return module.current_peers() if module else None


def _run(argv):
    if not argv or argv[0] in HELP:
        print(_overview())
        return 0
    name, *words = argv
    if name not in COMMANDS:
        hint = did_you_mean(COMMAND_SYNONYMS.get(name, name), COMMANDS)
        raise UserError(f"'{name}' is not a command{hint}; choose from: {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    if set(HELP[:3]).intersection(words):
        print(command_help(name, command))
        return 0
    from fastmim_jax.cli.parse import parse  # here: the help needs no absl

    print_warnings(command.as_typed)
    values, paths = parse(name, command, words)
    check_inputs(name, command, values, paths)
    return command.run(values, paths)


def _overview():
    lines = [
        f"  {usage(name, command._replace(optional=()))}\n      {command.summary}"
        for name, command in COMMANDS.items()
    ]
    return "\n".join(
        [
            f"fastmim {__version__}: masked-image-modeling pre-training\n",
            *lines,
            "\n`fastmim configs` lists the configs, `fastmim models` the backbones, `fastmim config`",
            "the keys of a config; `fastmim COMMAND --help` explains the flags.",
        ]
    )


if __name__ == "__main__":
    main()
