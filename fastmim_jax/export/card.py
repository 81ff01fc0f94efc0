"""The model card of an exported model: README.md with its usage, facts, results and starting weights."""

import json
from pathlib import Path
from typing import Any

from fastmim_jax import __version__
from fastmim_jax.export.bundle import ModelBundle
from fastmim_jax.io import read_json_lines
from fastmim_jax.saved_config import flatten
from fastmim_jax.validate.names import count

# Licences of the weights published in these formats, as the repositories state them. The first key in the
# name of a format decides: OpenMMLab trained its own MAE and SimMIM.
LICENCES = {
    "mmpretrain": "Apache-2.0 (open-mmlab/mmpretrain)",
    "torchvision": "BSD-3-Clause (pytorch/vision)",
    "mae": "CC-BY-NC 4.0 (facebookresearch/mae)",
    "simmim": "MIT (microsoft/SimMIM)",
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


def model_card(bundle: ModelBundle, usage: str, library: str, curve: str | None = None) -> str:
    """Return the text of a README.md.

    Args:
      usage: Python lines that open the folder.
      library: the library that opens it, for the card's metadata.
      curve: file name of a picture of the loss beside the card, if any.
    """
    classes = count(len(bundle.classes), "class", "classes")
    title = PAPERS.get(bundle.kind, classes if bundle.classes else "a backbone")
    title = f"{bundle.section.backbone.name}, {title}"
    parts = [
        f"---\nlibrary_name: {library}\ntags: [masked-image-modeling, image-feature-extraction]\n---",
        f"# {title}",
        f"```python\n{usage.strip()}\n```",
        "\n".join(f"- {fact}" for fact in (*_facts(bundle), *_results(bundle))),
        *([f"![Loss against step]({curve})"] if curve else []),
        f"## Starting weights\n\n{starting_weights(bundle)}",
        f"## Config\n\n```json\n{json.dumps(flatten(bundle.config), indent=1)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def starting_weights(bundle: ModelBundle) -> str:
    """Return sentences on the weights that training began from, and on their licence."""
    conversion = lineage(bundle)
    if not conversion:
        return "None: all parameters were initialised at random and trained on the data named above."
    source = f"`{conversion['source']}`"
    if "format" not in conversion:
        return f"Training began from {source}, whose origin is not recorded: ask there for its licence."
    fmt = conversion["format"]
    licence = next((text for key, text in LICENCES.items() if key in fmt), None)
    terms = f"weights published in it are under {licence}" if licence else "ask there for its licence"
    return f"{source}, a file in the format `{fmt}`: {terms}."


def lineage(bundle: ModelBundle) -> dict[str, Any]:
    """Return the conversion.json of the weights that training began from, if they were converted.

    Returns {"source"} if the file is lost, {} for weights initialised at random.
    """
    workdir, config, source = bundle.workdir, bundle.config, ""
    while workdir is not None:
        conversion = Path(workdir) / "conversion.json"
        if conversion.exists():
            return json.loads(conversion.read_text())
        source = config.get("init", "") if config is not None else ""
        if not source:
            return {}
        path = Path(source).expanduser()
        workdir = path.parent.parent if path.name.isdigit() else path
        config_file = workdir / "config.json"
        if not config_file.exists():
            return {"source": source}
        config = json.loads(config_file.read_text())
    return {"source": bundle.origin, "format": bundle.format} if bundle.format else {}


def _facts(bundle):
    config, data = bundle.config, bundle.config.data
    height, width, channels = bundle.image_shape
    mean = "ImageNet's mean and standard deviation"
    mean = f"{list(data.mean)} and {list(data.std)}" if data.mean else mean
    yield f"Images of {height} x {width} pixels with {count(channels, 'channel')}, normalised by {mean}."
    if bundle.pooling:
        classes = count(len(bundle.classes), "class", "classes")
        yield f"Pooling: {bundle.pooling.replace('_', ' ')}; {classes}."
    if bundle.format or (bundle.workdir and (Path(bundle.workdir) / "conversion.json").exists()):
        yield f"Converted by fastmim_jax {__version__}, not trained by it."
    else:
        schedule = config.schedule
        epochs = f"{schedule.epochs:g} {'epoch' if schedule.epochs == 1 else 'epochs'}"
        length = count(schedule.steps, "step") if schedule.steps else epochs
        yield (
            f"Trained by fastmim_jax {__version__} for {length} on `{data.path}`, with "
            f"a batch size of {schedule.batch_size:,}."
        )


def _results(bundle):
    """The last logged value of every metric of SHOWN."""
    lines = read_json_lines(Path(bundle.workdir) / "metrics.jsonl").records if bundle.workdir else []
    last = {}
    for line in lines:
        last |= {key: (line[key], line["step"]) for key in SHOWN if key in line}
    return [f"{SHOWN[key]}: {value:.4g} after step {step:,}" for key, (value, step) in last.items()]
