"""Config files: where they are, the variants of each, and configs made from them."""

import os
import runpy
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from fastmim_jax.errors import UserError, did_you_mean

PACKAGE = Path(__file__).parent


class ConfigFile(NamedTuple):
    """A config file.

    name: what to type, such as "configs/mae.py".
    summary: first sentence of its docstring.
    variants: names of its variants, the default first; () without any.
    doc: its docstring.
    """

    name: str
    summary: str
    variants: tuple[str, ...]
    doc: str


def config_folder() -> Path:
    """Return the folder of the bundled config files, of a checkout or of an installation."""
    checkout = PACKAGE.parent / "configs"
    return checkout if checkout.is_dir() else PACKAGE / "configs"


def find_config_file(path: str) -> Path:
    """Return a config file: as typed, or one of the bundled files, from any working directory.

    Raises:
      UserError: there is none.
    """
    name = Path(path)
    bundled = config_folder()
    candidates = [name, bundled.parent / name, bundled / name, bundled / f"{path}.py"]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is not None:
        return found
    names = sorted(path.name for path in bundled.glob("*.py"))
    hint = did_you_mean(f"{name.stem}.py", names, "configs/")
    raise UserError(
        f"{path} does not exist{hint}: type --config=configs/NAME.py[:VARIANT]; choose NAME.py from: "
        + ", ".join(names)
    )


def load_config(name: str) -> ConfigDict:
    """Return the config of a file and variant, such as "configs/mae.py:vit_b16".

    Raises:
      UserError: no such file or variant, or a file that cannot be run.
    """
    path, _, variant = os.fspath(name).partition(":")
    file = find_config_file(path)
    get_config = _run(file).get("get_config")
    if get_config is None:
        raise UserError(f"{file} has no function get_config, expected one that returns a config")
    return get_config(variant) if variant else get_config()


def list_config_files() -> list[ConfigFile]:
    """Return the bundled config files in the order of their names."""
    return [_describe(file) for file in sorted(config_folder().glob("*.py"))]


def list_configs() -> dict[str, str]:
    """Return {name to type, such as "configs/mae.py:vit_b16": what it is} of all bundled configs."""
    return {
        f"{file.name}:{variant}" if variant else file.name: file.summary
        for file in list_config_files()
        for variant in file.variants or ("",)
    }


def _describe(file: Path) -> ConfigFile:
    content = _run(file)
    doc = content["__doc__"] or ""
    return ConfigFile(
        f"configs/{file.name}", doc.partition("\n")[0], tuple(content.get("VARIANTS", ())), doc.rstrip()
    )


def _run(file: Path) -> dict[str, Any]:
    """Return the names that a config file defines."""
    try:
        return runpy.run_path(str(file))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{file} cannot be run ({type(error).__name__}: {error})") from error
