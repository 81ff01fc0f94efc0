"""Splits of layouts with fixed names of folders."""

from fastmim_jax.data.sources.base import refuse_split
from fastmim_jax.data.sources.splits import Division


def choose_folder(path: str, split: str, folders: dict[str, str]) -> str:
    """Return the folder or file of a split, by its name or another usual one; raises UserError.

    Args:
      folders: {split: its folder or file}.
    """
    found = Division(folders, ()).find(split)
    if found is not None:
        return found
    refuse_split(split, path, tuple(folders), "one of them" if folders else "the folders of the download")
