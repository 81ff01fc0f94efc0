"""Commands of the command line, run in this process."""

import pytest

from fastmim_jax.__main__ import main


def refused(capsys, *words):
    """-> the one sentence of a refused command."""
    with pytest.raises(SystemExit) as exit:
        main(list(words))
    assert exit.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("fastmim: ") and message.count("\n") == 1 and "Traceback" not in message
    return message
