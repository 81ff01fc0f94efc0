"""The model card of an exported model: README.md with its usage, facts, results and starting weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fastmim_jax import __version__
from fastmim_jax.errors import UserError
from fastmim_jax.export.bundle import ModelBundle
from fastmim_jax.export.formats.pixel_values import describe_values
from fastmim_jax.export.private_paths import without_paths
from fastmim_jax.saved_config import config_from_dict, flatten
from fastmim_jax.train.lineage import CONVERSION, Ancestor, Lineage, lineage_with, read_lineage
from fastmim_jax.train.metrics import read_metrics
from fastmim_jax.train.runs import read_config
from fastmim_jax.validate.names import count

# Licences of the weights published in these formats, as the repositories state them. The first key in the
# name of a format decides: OpenMMLab trained its own MAE and SimMIM.
LICENCES = {
    "mmpretrain": "Apache-2.0 (open-mmlab/mmpretrain)",
    "torchvision": "BSD-3-Clause (pytorch/vision)",
    "mae": "CC-BY-NC 4.0 (facebookresearch/mae)",
    "simmim": "MIT (microsoft/SimMIM)",
}
# The Hugging Face Hub's identifiers of these licences, by their first words.
LICENCE_IDS = {
    "Apache-2.0": "apache-2.0",
    "BSD-3-Clause": "bsd-3-clause",
    "CC-BY-NC 4.0": "cc-by-nc-4.0",
    "MIT": "mit",
}
PAPERS = {
    "crossmae": "CrossMAE (arXiv 2401.14391)",
    "fastmim": "FastMIM (arXiv 2212.06593)",
    "localmim": "LocalMIM (arXiv 2303.05251)",
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


def model_card(
    bundle: ModelBundle,
    usage: str,
    library: str,
    curve: str | None = None,
    with_paths: bool = False,
    licence: str = "",
    sections: str = "",
) -> str:
    """Return the text of a README.md.

    Args:
      usage: Python lines that open the folder.
      library: the library that opens it, for the card's metadata.
      curve: file name of a picture of the loss beside the card, if any.
      with_paths: whether local paths, such as of the data, may be in it.
      licence: the Hub's identifier; "" for that of the weights that training began from.
      sections: further text, after the facts.
    """
    classes = count(len(bundle.classes), "class", "classes")
    title = PAPERS.get(bundle.kind, classes if bundle.classes else "a backbone")
    title = f"{bundle.backbone_name}, {title}"
    config = bundle.config if with_paths else without_paths(bundle.config)
    parts = [
        _metadata(bundle, library, licence),
        f"# {title}",
        f"```python\n{usage.strip()}\n```",
        "\n".join(f"- {fact}" for fact in (*_facts(bundle, with_paths), *_results(bundle))),
        *([f"![Loss against step]({curve})"] if curve else []),
        *([sections] if sections else []),
        f"## Starting weights\n\n{starting_weights(bundle, with_paths)}",
        f"## Config\n\n```json\n{json.dumps(flatten(config), indent=1)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(bundle: ModelBundle, library: str, licence: str) -> str:
    """Return the header that the Hugging Face Hub reads: YAML of library, licence, task and tags."""
    task = "image-classification" if bundle.classes else "image-feature-extraction"
    licence = licence or _inherited_licence(bundle)
    lines = [f"library_name: {library}", *([f"license: {licence}"] if licence else [])]
    lines += [
        f"pipeline_tag: {task}",
        "tags: [masked-image-modeling, image-feature-extraction, fastmim_jax]",
    ]
    return "\n".join(["---", *lines, "---"])


def _inherited_licence(bundle: ModelBundle) -> str:
    """Return the Hub's identifier of the licence of the starting weights.

    Returns "unknown" where it is not recorded; "" for weights initialised at random.
    """
    origin = lineage(bundle).origin
    text = next((text for key, text in LICENCES.items() if key in origin.get("format", "")), "")
    known = next((name for start, name in LICENCE_IDS.items() if text.startswith(start)), "unknown")
    return known if origin else ""


def starting_weights(bundle: ModelBundle, with_paths: bool = False) -> str:
    """Return sentences on the weights that training began from, and on their licence."""
    runs, origin = lineage(bundle)
    if not runs and not origin:
        return "None: all parameters were initialised at random and trained on the run's own data."
    sentences = [
        f"{'Before that: ' if number else 'Training began from '}{_run(run)}."
        for number, run in enumerate(runs)
    ]
    if not origin:
        return " ".join([*sentences, "There, all parameters were initialised at random."])
    source = origin.get("source", "")
    shown = f"`{source}`" if with_paths else f"`{Path(source).name}`" if origin.get("format") else "weights"
    if not origin.get("format"):
        began = f"{'There, training' if runs else 'Training'} began from {shown}"
        problem = f" ({origin['problem']})" if "problem" in origin else ""
        began += f", whose origin is not recorded{problem}: ask there for its licence."
        return " ".join([*sentences, began])
    fmt = origin["format"]
    licence = next((text for key, text in LICENCES.items() if key in fmt), None)
    terms = f"weights published in it are under {licence}" if licence else "ask there for its licence"
    return " ".join([*sentences, f"{shown}, a file in the format `{fmt}`: {terms}."])


def lineage(bundle: ModelBundle) -> Lineage:
    """Return the runs before a model's own, and the weights that the first of them began from."""
    if bundle.workdir is None:
        return Lineage([], {"source": bundle.origin, "format": bundle.format} if bundle.format else {})
    return read_lineage(Path(bundle.workdir), _run_config(bundle))


def lineage_of_export(bundle: ModelBundle, with_paths: bool = False) -> Lineage | None:
    """Return the lineage of our own folder that a run is exported to; None for another library's weights.

    with_paths: whether local paths may be in it.
    """
    if bundle.workdir is None:
        return None
    runs, origin = lineage_with(Path(bundle.workdir), _run_config(bundle), bundle.step)
    if with_paths:
        return Lineage(runs, origin)
    shown = {"source": Path(origin["source"]).name if origin.get("format") else ""} if origin else {}
    cleaned = [run._replace(config=without_paths(ConfigDict(run.config)).to_dict()) for run in runs]
    return Lineage(cleaned, origin | shown)


def _run_config(bundle):
    """Return the config of a model's run, which a bare backbone has not."""
    try:
        return read_config(bundle.workdir)
    except UserError:  # of a bundle that was made without a run
        return bundle.config


def _run(run: Ancestor) -> str:
    """Describe a run of ours, such as "MAE (arXiv 2111.06377) of vit_b16 for 800 epochs ..."."""
    config = run.config
    section = config.get("method") or config.get("model") or {}
    name = PAPERS.get(
        section.get("name", ""), "fine-tuning" if "model" in config else "a run of fastmim_jax"
    )
    backbone = _backbone(config)
    length = f" for {_length(config['schedule'])}" if config.get("schedule") else ""
    size = (config.get("data") or {}).get("image_size")
    images = f", images of {size[0]} x {size[1]} pixels" if size else ""
    step = "" if run.step is None else f", its checkpoint of step {run.step:,}"
    return f"{name}{f' of {backbone}' if backbone else ''}{length}{images}{step}"


def _backbone(config: Mapping[str, Any]) -> str:
    """Return the name of a run's backbone, its sizes where they are no zoo entry's; "" if unknown."""
    name = ((config.get("method") or config.get("model") or {}).get("backbone") or {}).get("name", "")
    try:
        return name and ModelBundle(config_from_dict(config), {}, ()).backbone_name
    except (UserError, AttributeError, KeyError, TypeError, ValueError):  # a config of another version
        return name


def _length(schedule: Mapping[str, Any]) -> str:
    """Describe the length of a run, such as "800 epochs, with a batch size of 4,096"."""
    epochs = schedule.get("epochs") or 0
    length = count(schedule["steps"], "step") if schedule.get("steps") else count_epochs(epochs)
    return f"{length}, with a batch size of {schedule.get('batch_size') or 0:,}"


def count_epochs(epochs: float) -> str:
    """Return "1 epoch", "0.5 epochs"."""
    return f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}"


def _facts(bundle, with_paths):
    config, data = bundle.config, bundle.config.data
    height, width, channels = bundle.image_shape
    mean = "ImageNet's mean and standard deviation"
    mean = f"{list(data.mean)} and {list(data.std)}" if data.mean else mean
    yield f"Images of {height} x {width} pixels with {count(channels, 'channel')}, normalised by {mean}."
    values = describe_values(data)
    if values:
        yield f"Values: {values}."
    if bundle.pooling:
        classes = count(len(bundle.classes), "class", "classes")
        yield f"Pooling: {bundle.pooling.replace('_', ' ')}; {classes}."
    if bundle.format or (bundle.workdir and (Path(bundle.workdir) / CONVERSION).exists()):
        yield f"Converted by fastmim_jax {__version__}, not trained by it."
    else:
        data_path = f" on `{data.path}`" if with_paths else ""
        if bundle.workdir and bundle.kind == "classifier" and not bundle.classes:
            config = _run_config(bundle)
            yield f"The backbone of {_run(Ancestor(config.to_dict()))}."
        yield f"Trained by fastmim_jax {__version__} for {_length(config.schedule)}{data_path}."


def _results(bundle):
    """The last logged value of every metric of SHOWN."""
    lines = read_metrics(bundle.workdir).records if bundle.workdir else []
    last = {}
    for line in lines:
        last |= {key: (line[key], line["step"]) for key in SHOWN if key in line}
    return [f"{SHOWN[key]}: {value:.4g} after step {step:,}" for key, (value, step) in last.items()]
