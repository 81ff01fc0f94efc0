"""The model card of an exported model: a README.md on what it is, how it came about and how to use it."""

import json
from pathlib import Path

from fastmim_jax import __version__
from fastmim_jax.io import read_json_lines
from fastmim_jax.saved_config import flatten

# Of the weights that were published in these formats, as the repositories state it.
LICENCES = {
    "mae": "CC-BY-NC 4.0 (facebookresearch/mae)",
    "simmim": "MIT (microsoft/SimMIM)",
    "mmpretrain": "Apache-2.0 (open-mmlab/mmpretrain)",
    "torchvision": "BSD-3-Clause (pytorch/vision)",
}
PAPERS = {
    "fastmim": "FastMIM (arXiv 2212.06593)",
    "mae": "MAE (arXiv 2111.06377)",
    "mixmim": "MixMIM / MixMAE (arXiv 2205.13137)",
    "simmim": "SimMIM (arXiv 2111.09886)",
}
SHOWN = {
    "loss": "training loss",
    "eval_loss": "held-out loss",
    "probe_top1": "ridge probe, top-1",
    "top1": "top-1 accuracy",
}


def model_card(model, usage, library, curve=None):
    """The text of a README.md.

    Args:
      model: export.model.Model.
      usage: Python lines that open what was written.
      library: that opens it, for the card's head.
      curve: file name of a picture of the loss beside the card, or None.
    """
    section = model.section
    title = f"{section.backbone.name}, " + PAPERS.get(model.kind, f"{len(model.classes):,} classes")
    if model.kind == "classifier" and not model.classes:
        title = f"{section.backbone.name}, a backbone"
    parts = [
        f"---\nlibrary_name: {library}\ntags: [masked-image-modeling, image-feature-extraction]\n---",
        f"# {title}",
        f"```python\n{usage.strip()}\n```",
        "\n".join(f"- {fact}" for fact in (*_facts(model), *_results(model))),
        *([f"![Loss against step]({curve})"] if curve else []),
        f"## Starting weights\n\n{starting_weights(model)}",
        f"## Config\n\n```json\n{json.dumps(flatten(model.config), indent=1)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def starting_weights(model):
    """Sentences on what the training began from, and whose terms that comes under."""
    told = lineage(model)
    if not told:
        return "None: all parameters were drawn at random, and trained on the data named above."
    if "format" not in told:
        return f"It began from `{told['source']}`, which says nothing of where it came from: ask there."
    known = next((text for key, text in LICENCES.items() if key in told["format"]), None)
    terms = f"published weights of that format are under {known}" if known else "ask there for its terms"
    return f"`{told['source']}`, a file in the format `{told['format']}`: {terms}."


def lineage(model):
    """The conversion that a model comes from: its conversion.json, {"source"} if that is lost, or {}."""
    workdir, config, source = model.workdir, model.config, ""
    while workdir is not None:
        converted = Path(workdir) / "conversion.json"
        if converted.exists():
            return json.loads(converted.read_text())
        source = config.get("init", "") if config is not None else ""
        if not source:
            return {}
        path = Path(source).expanduser()
        workdir = path.parent.parent if path.name.isdigit() else path
        saved = workdir / "config.json"
        if not saved.exists():
            return {"source": source}
        config = json.loads(saved.read_text())
    return {"source": model.origin, "format": model.format} if model.format else {}


def _facts(model):
    config, data = model.config, model.config.data
    height, width, channels = model.image_shape
    mean = "ImageNet's mean and deviation" if not data.mean else f"{list(data.mean)} and {list(data.std)}"
    yield f"Images of {height} x {width} pixels with {channels} channels, normalised by {mean}."
    if model.pooling:
        yield f"Pooling: {model.pooling.replace('_', ' ')}; {len(model.classes):,} classes."
    if model.format or (model.workdir and (Path(model.workdir) / "conversion.json").exists()):
        yield f"Converted by fastmim_jax {__version__}, not trained by it."
    else:
        schedule = config.schedule
        length = f"{schedule.steps:,} updates" if schedule.steps else f"{schedule.epochs:g} epochs"
        yield (
            f"Trained by fastmim_jax {__version__} for {length} of batch {schedule.batch_size:,} on "
            f"`{data.path}`."
        )


def _results(model):
    """The last of every figure that was logged."""
    lines = read_json_lines(Path(model.workdir) / "metrics.jsonl").records if model.workdir else []
    last = {}
    for line in lines:
        last |= {key: (line[key], line["step"]) for key in SHOWN if key in line}
    return [f"{SHOWN[key]}: {value:.4g} after step {step:,}" for key, (value, step) in last.items()]
