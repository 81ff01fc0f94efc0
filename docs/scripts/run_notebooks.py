"""Run the notebooks of docs/notebooks and save their outputs, without what differs between machines.

    python docs/scripts/run_notebooks.py [NAME ...]

Times, speeds and the folder are left out of the text, and pictures become JPEG where that is smaller.
"""

import base64
import io
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parents[1] / "notebooks"
# Lines that differ between machines and runs, and the end of lines of progress.
MACHINE = re.compile(
    r"^(the devices waited| *(devices|reading|memory) |(still )?compil(ed|ing) the ).*\n"
    r"|  +[\d,.]+ images/s.*",
    re.MULTILINE,
)


def main(names):
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            notebook, start = nbformat.read(path, as_version=4), time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": folder}}).execute()
            for cell in notebook.cells:
                cell.metadata.pop("execution", None)
                if cell.cell_type == "code":
                    cell.outputs = clean_outputs(cell.outputs, folder)
            nbformat.write(notebook, path)
            print(path.name, f"{time.monotonic() - start:.0f} s", path.stat().st_size // 1000, "kB")


def clean_outputs(outputs, folder):
    """Return the outputs of a cell: its text in one piece, without progress and times, then the others."""
    printed = [output for output in outputs if is_printed(output)]
    text = "".join(output.get("text") or output.data["text/plain"] for output in printed)
    text = MACHINE.sub("", re.sub(r"[^\n]*\r", "", text).replace(f"{folder}/", ""))
    kept = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text.strip() else []
    for output in outputs:
        if not is_printed(output):
            output.data = clean_data(output.data)
            kept.append(output)
    return kept


def is_printed(output):
    """Return whether an output is text that was printed, which Rich makes a display of its own."""
    return (
        output.output_type == "stream"
        or output.output_type == "display_data"
        and "text/html" in output.data
    )


def clean_data(data):
    """Return the data of an output with its picture in the smaller format."""
    if "image/png" not in data:
        return data
    png = base64.b64decode(data["image/png"])
    jpeg = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(jpeg, "JPEG", quality=85)
    kind, content = (
        ("image/png", png) if len(png) < len(jpeg.getvalue()) else ("image/jpeg", jpeg.getvalue())
    )
    return {kind: base64.b64encode(content).decode() + "\n"}


if __name__ == "__main__":
    main(sys.argv[1:])
