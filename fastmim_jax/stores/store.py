"""The objects below an address in an object store, through fsspec."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from fastmim_jax.errors import UserError, describe_failure

# Scheme -> (package that opens it, how to install it).
EXTRAS = {
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", 'pip install "fastmim_jax[gcs]"')),
    **dict.fromkeys(("s3", "s3a"), ("s3fs", 'pip install "fastmim_jax[s3]"')),
    **dict.fromkeys(("az", "abfs", "abfss"), ("adlfs", "pip install adlfs")),
    "hf": ("huggingface_hub", "pip install huggingface_hub"),
}
# What the listings of stores call the content of an object, in order of preference; the last are its age.
_TAGS = ("ETag", "etag", "md5Hash", "crc32c", "generation", "content_md5", "sha256", "blob_id")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")


class StoreError(Exception):
    """An object store could not be reached, or refused; the message says why in a few words."""


class Object(NamedTuple):
    """An object as a listing shows it: size in bytes, and a text that changes with its content."""

    size: int
    tag: str


class Store:
    """The objects below an address; their names are relative to it, with "/" between folders.

    An address may also be that of a single object: it is then the only one, with the name "".

    Args:
      address: such as gs://bucket/runs/a.
      typed: what stands before the address in a message, such as "--workdir=".

    Raises:
      UserError: nothing can open such an address, or a package is missing.
    """

    def __init__(self, address: str, typed: str = ""):
        self.address = address.rstrip("/")
        self._files, self._root = _open(self.address, typed)

    def list(self) -> dict[str, Object]:
        """Return the objects by name; {} where there are none.

        Raises:
          StoreError: it cannot be listed.
        """
        try:
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise _failure(error) from error
        return {
            path[len(self._root) :].strip("/"): Object(facts.get("size") or 0, _tag(facts))
            for path, facts in found.items()
            if facts.get("type", "file") == "file" and not path.endswith("/")
        }

    def read(self, name: str) -> bytes | None:
        """Return the content of an object, or None if there is none.

        Raises:
          StoreError: it cannot be read.
        """
        try:
            return self._files.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise _failure(error) from error

    def write(self, name: str, content: bytes) -> None:
        """Put a whole object.

        Raises:
          StoreError: it cannot be written.
        """
        try:
            self._files.pipe_file(self._path(name), content)
        except Exception as error:
            raise _failure(error) from error

    def upload(self, name: str, path: Path) -> None:
        """Put a file as a whole object.

        Raises:
          FileNotFoundError: the file is gone.
          StoreError: it cannot be written.
        """
        path.stat()
        try:
            self._files.put_file(str(path), self._path(name))
        except Exception as error:
            path.stat()
            raise _failure(error) from error

    def download(self, name: str, path: Path) -> None:
        """Copy an object to a file.

        Raises:
          StoreError: it cannot be read, or the file cannot be written.
        """
        try:
            self._files.get_file(self._path(name), str(path))
        except Exception as error:
            raise _failure(error) from error

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects, in order; one that is gone already is no error.

        Raises:
          StoreError: one cannot be deleted.
        """
        for name in names:
            try:
                self._files.rm_file(self._path(name))
            except FileNotFoundError:
                continue
            except Exception as error:
                raise _failure(error) from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


def _open(address: str, typed: str) -> tuple[Any, str]:
    """-> the file system of fsspec, and the path in it."""
    import fsspec

    scheme = address.partition("://")[0]
    package, install = EXTRAS.get(scheme, ("", ""))
    try:
        files, path = fsspec.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        need = f"the package {package}: type {install}" if package else f"another package ({error})"
        raise UserError(f"{typed}{address} needs {need}") from error
    except ValueError as error:
        raise UserError(
            f"{typed}{address}: {scheme}:// is no storage that fsspec opens ({describe_failure(error)}), "
            "expected gs://, s3://, az:// or hf://: type another address, or a local path"
        ) from error
    for name in ("gcsfs", "s3fs", "asyncio", "fsspec"):  # they log what is raised as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return files, str(path).rstrip("/")


def _tag(facts: dict[str, Any]) -> str:
    known = [str(facts[name]) for name in _TAGS if facts.get(name)]
    return known[0] if known else " ".join(str(facts[name]) for name in _TIMES if facts.get(name))


def _failure(error: Exception) -> StoreError:
    return error if isinstance(error, StoreError) else StoreError(describe_failure(error))
