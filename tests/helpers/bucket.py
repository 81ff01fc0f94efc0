"""An object store over a folder, as fsspec opens bucket://: whole objects, no appends, renames or folders.

Other processes see what one has put. Puts can be made to fail: see FAILS.
"""

import hashlib
import os
import tempfile
import urllib.parse
from pathlib import Path

import fsspec
from fsspec.spec import AbstractFileSystem

ROOT = "BUCKET_ROOT"  # environment variable: the folder
FAILS = "fails"  # file beside the objects: puts of objects whose name has its text are refused


class BucketFileSystem(AbstractFileSystem):
    """Objects are files named by their quoted name, so that there are no folders."""

    protocol = "bucket"
    cachable = False

    @property
    def _folder(self):
        return Path(os.environ[ROOT])

    def _file(self, path):
        return self._folder / f"object-{urllib.parse.quote(self._strip_protocol(path), safe='')}"

    def _names(self):
        files = self._folder.glob("object-*")
        return sorted(urllib.parse.unquote(file.name.removeprefix("object-")) for file in files)

    def find(self, path, maxdepth=None, withdirs=False, detail=False, **kwargs):
        """List objects by prefix, as a store does."""
        root = self._strip_protocol(path).rstrip("/")
        names = [name for name in self._names() if name == root or name.startswith(f"{root}/")]
        return {name: self.info(name) for name in names} if detail else names

    def info(self, path, **kwargs):
        """Return the facts of one object."""
        try:
            content = self._file(path).read_bytes()
        except OSError:
            raise FileNotFoundError(path) from None
        name, etag = self._strip_protocol(path), hashlib.md5(content).hexdigest()
        return {"name": name, "size": len(content), "type": "file", "ETag": etag}

    def cat_file(self, path, start=None, end=None, **kwargs):
        """Return the content of an object."""
        try:
            return self._file(path).read_bytes()
        except OSError:
            raise FileNotFoundError(path) from None

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        """Put a whole object at once."""
        fails = self._folder / FAILS
        if fails.exists() and fails.read_text() in path:
            raise OSError(f"503: slow down ({path})")
        handle, temporary = tempfile.mkstemp(dir=self._folder)
        with os.fdopen(handle, "wb") as file:
            file.write(value)
        os.replace(temporary, self._file(path))

    def put_file(self, lpath, rpath, callback=None, mode="overwrite", **kwargs):
        """Put a file."""
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def get_file(self, rpath, lpath, callback=None, outfile=None, **kwargs):
        """Copy an object to a file."""
        Path(lpath).write_bytes(self.cat_file(rpath))

    def rm_file(self, path):
        """Delete an object."""
        try:
            self._file(path).unlink()
        except OSError:
            raise FileNotFoundError(path) from None

    def _open(self, path, mode="rb", **kwargs):
        raise NotImplementedError(f"no files here: {path} {mode}")

    def mkdir(self, path, create_parents=True, **kwargs):
        """Refuse: there are no folders."""
        raise NotImplementedError(path)

    mv = cp_file = makedirs = mkdir


def register():
    """Let fsspec open bucket:// in this process."""
    fsspec.register_implementation("bucket", BucketFileSystem, clobber=True)


def put_folder(folder, address):
    """Put the files of a folder as objects."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            BucketFileSystem().pipe_file(
                f"{address}/{path.relative_to(folder).as_posix()}", path.read_bytes()
            )
