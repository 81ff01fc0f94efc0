"""`fastmim convert --push`: upload a converted folder to the Hugging Face Hub, once it holds the model."""

import re
import shlex
from pathlib import Path
from typing import Any

from fastmim_jax import __version__
from fastmim_jax.errors import UserError, describe_failure
from fastmim_jax.export.bundle import ModelBundle
from fastmim_jax.export.convert import Log, Options, convert, open_source
from fastmim_jax.export.destination.contents import FILE, find_foreign, has_contents
from fastmim_jax.export.extras import require
from fastmim_jax.export.verify import verify_bundles

_NAME = re.compile(r"[\w.-]+/[\w.-]{1,96}", re.ASCII)


def check_push(name: str | None, to: str | None, public: bool) -> None:
    """Check, before anything is read, that a push can begin.

    Args:
      name: USER/NAME; None: nothing is pushed.
      to: the format.
      public: whether everybody may see the model.

    Raises:
      UserError: another format or name, a package that is not installed, or nobody is logged in.
    """
    if not name:
        if public:
            raise UserError("--public is about a push, but there is none: type --push=USER/NAME too")
        return
    if to != "hf":
        seen = f"--to={to}" if to else "no --to"
        raise UserError(f"--push is given with {seen}, expected a folder for the Hub: type --to=hf")
    if not _NAME.fullmatch(name):
        raise UserError(f"--push={name} is no name of a model, expected one such as --push=USER/NAME")
    if not _hub().get_token():
        raise UserError(
            "--push needs a token of the Hugging Face Hub, but nobody is logged in: type hf auth login, or "
            "set HF_TOKEN"
        )


def convert_and_push(
    source: str | Path, destination: str | Path, options: Options, public: bool = False, log: Log = print
) -> str:
    """Convert a checkpoint, read the folder back, compare it with the source, and push it.

    Args:
      source, destination, options, log: see `convert`; options.hub is the name of the model.
      public: whether everybody may see the model.

    Returns:
      The address of the model.

    Raises:
      UserError: see `convert`; or the folder does not hold the model, or the Hub refuses it. The folder
        stays.
    """
    bundle = convert(source, destination, options, log)
    folder = Path(destination)
    _check_folder(bundle, folder, log)
    url = push(folder, options.hub, public)
    log(f"{'pushed':>12}  {url} ({'public' if public else 'private'})")
    return url


def push(folder: Path, name: str, public: bool = False) -> str:
    """Upload a folder as one commit, and return the address of the model.

    Raises:
      UserError: it could not be uploaded, or the model there is public and `public` is False.
    """
    hub = _hub()
    api = hub.HfApi()
    try:
        url = api.create_repo(name, private=not public, exist_ok=True)
        seen_by_all = not public and not api.model_info(name).private
        if not seen_by_all:
            api.upload_folder(
                repo_id=name,
                folder_path=folder,
                ignore_patterns=[FILE],
                commit_message=f"Model exported by fastmim_jax {__version__}",
            )
    except Exception as error:  # of the connection, the Hub or the disk
        raise UserError(
            f"{folder} is complete, but was not pushed to {name} ({_reason(error, hub.get_token())}): type "
            + _command(folder, name, public)
        ) from None
    if seen_by_all:
        raise UserError(
            f"{folder} is complete, but was not pushed: {name} is public, expected a private model: type "
            f"another name, or {_command(folder, name, public=True)}"
        )
    return str(url)


def _check_folder(bundle: ModelBundle, folder: Path, log: Log) -> None:
    """Check that a folder is as it was written, and holds a model."""
    changed = find_foreign(folder)
    if changed or not has_contents(folder):
        seen = ", ".join(changed[:8]) or f"{FILE} is missing"
        raise UserError(
            f"{folder} was changed since it was written ({seen}), so that it is not pushed: type the same "
            "command with --overwrite"
        )
    if not verify_bundles(bundle, open_source(folder)[0], log):
        raise UserError(
            f"{folder} does not compute as its source does (see above), so that it is not pushed: report it"
        )


def _hub() -> Any:
    return require("huggingface_hub", "hub")


def _reason(error: Exception, token: str | None) -> str:
    """Return why the Hub refused, without the token."""
    message = getattr(error, "server_message", None)
    text = ", ".join(dict.fromkeys([describe_failure(error), *([str(message)] if message else [])]))
    return text.replace(token, "...") if token else text


def _command(folder: Path, name: str, public: bool) -> str:
    """Return the command that pushes the folder again."""
    private = "" if public else " --private"
    return f"hf upload {name} {shlex.quote(str(folder))} .{private} --exclude={FILE}"
