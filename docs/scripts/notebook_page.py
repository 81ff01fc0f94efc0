"""A notebook as a page: its text, its code, and the outputs that it was saved with."""

from collections.abc import Iterator, Mapping


def notebook_markdown(notebook: Mapping, name: str) -> str:
    """Return the Markdown of a notebook (nbformat 4); name: of its file, which the page links."""
    title, *rest = [part for cell in notebook["cells"] for part in _cell_parts(cell)]
    return "\n\n".join([title, f"[Download this notebook]({name}){{download}}", *rest]) + "\n"


def _cell_parts(cell: Mapping) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        yield from _output_parts(output)


def _output_parts(output: Mapping) -> Iterator[str]:
    data = output.get("data", {})
    kind = next((kind for kind in ("image/png", "image/jpeg") if kind in data), None)
    if kind:
        yield f'<img alt="output" src="data:{kind};base64,{"".join(data[kind]).strip()}">'
    elif text := "".join(output.get("text", data.get("text/plain", ""))):
        yield f"```text\n{text.rstrip()}\n```"
