"""The flags of all commands, and the paths in them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fastmim_jax.errors import UserError
from fastmim_jax.paths import is_store, local_path, place


class Flag(NamedTuple):
    """A flag.

    value: what to type after "=", in the help; "" for a boolean.
    kind: of absl's flags: "string", "integer", "float", "bool", "list", "multi_string"; or "config".
    name: what to type before "=", where another flag has the name as its key in FLAGS.
    resolve: (path, "--NAME=") -> the path that is meant, of a flag with a path.
    """

    value: str
    help: str
    kind: str = "string"
    default: Any = None
    options: dict[str, Any] = {}
    name: str = ""
    resolve: Callable[[str, str], str] | None = None


def _integer(value, help, least, default=None):
    return Flag(value, help, "integer", default, dict(lower_bound=least))


def _words(value, help, name=""):
    return Flag(value, help, "list", [], name=name)


def _boolean(help):
    return Flag("", help, "bool", False)


def _path(value, help):
    return Flag(value, help, resolve=local_path)


def _place(value, help):
    return Flag(value, help, resolve=place)


def _data(value, help):
    return Flag(value, help, resolve=data_path)


def data_path(path: str, typed: str = "", absolute: bool = False) -> str:
    """Return a path of data sets, which may be FIRST::SECOND, with "~" and variables replaced."""
    from fastmim_jax.data.sources.joined import SEPARATOR, absolute_path, split_path

    try:
        return absolute_path(path) if absolute else SEPARATOR.join(split_path(path))
    except UserError as error:
        raise UserError(f"{typed}{error}") from error


def local_data_path(path: str, typed: str = "") -> str:
    """Return a path of data sets on this machine only, as `data_path` returns it."""
    for part in path.split("::"):
        if is_store(part):
            local_path(part, typed)
    return data_path(path, typed)


FLAGS = {
    "config": Flag("FILE.py[:VARIANT]", "a config file such as configs/quickstart.py", "config"),
    "workdir": _place("DIR", "folder of the run, created if missing; or gs://BUCKET/RUN, s3://..."),
    "accept_changed_data": _boolean("resume although the training data changed; recorded in data.json"),
    "extend": _boolean("train longer than the run was begun for, with a larger --config.schedule.epochs"),
    "distributed": _boolean(
        "several processes: JAX finds the others (Slurm, Open MPI, TPU pods, Kubernetes)"
    ),
    "coordinator": Flag("HOST:PORT", "of process 0, where nothing finds the others: any free port"),
    "processes": _integer("N", "number of all processes, with --coordinator", 1),
    "process": _integer("I", "number of this process, with --coordinator", 0),
    "images": _data("FILE_OR_DIR", "folder, data set, image or gs://, s3:// address to read instead"),
    "test": _data("DIR", "labelled data to test on; default: the val or test split of --images"),
    "split": Flag("NAME", "split of --images; default: val, test or train, the first that exists"),
    "with": _words("RUN,RUN", "work directories of other runs, or folders with a metrics.jsonl"),
    "out": _path("FILE", "file to write"),
    "count": _integer("N", "images at most; default: 6 to draw, 20,000 to probe", 1),
    "folds": _integer("N", "folds of cross-validation; 0: test data, or else 5 folds", 0, 0),
    "step": _integer("N", "step of the checkpoint; default: the best or the newest", 0),
    "kinds": _words(
        "ridge,knn",
        "probes of images: ridge, knn, linear, attentive; default: ridge,knn. Of pixels, with masks/ or "
        "depths/ in --images: segmentation, knn_segmentation, depth",
    ),
    "legend": _path("FILE", "names of the classes of masks, and their colours or values"),
    "depth_unit": Flag("0.001", "metres of a value of 16-bit depth images", "float", 0.001),
    "eval_mode": Flag(
        "slide",
        "dense probes: windows over each image, as published, or whole (default): resized to the crop",
        default="whole",
    ),
    "eval_resize": _integer("512", "short side of images under windows, in pixels; default: the crop's", 1),
    "probed_layers": _words('"block 12"', "layers that dense probes read; default: four", name="layers"),
    "layers": _words('"block 12 mean"', "layers to write; default: the last"),
    "format": Flag("NAME", "format of the source, such as mae_vit or timm_swin; default: detected"),
    "key": Flag("NAME", "entry of a file that has the arrays, such as model_ema"),
    "prefix": Flag("NAME", "prefix of the arrays to take, such as base_encoder; default: detected"),
    "to": Flag(
        "NAME",
        "official, timm, hf, torchvision, mmpretrain, mmdet, mmseg, detectron2, keras_hub, stablehlo, onnx",
    ),
    "image_size": _words("224", "pixels: side, or height,width, to resample positions to"),
    "set": Flag(
        "KEY=VALUE",
        "config key that the arrays do not determine, such as method.backbone.heads=6; repeatable",
        "multi_string",
        [],
    ),
    "reading": Flag(
        "KEY=VALUE",
        "config key of how images are read, such as run.workers=2; repeatable",
        "multi_string",
        [],
        name="set",
    ),
    "encoder_only": _boolean("leave out the decoder or head"),
    "partial": _boolean("convert although arrays are missing (initialised randomly) or unknown (left out)"),
    "overwrite": _boolean("replace an earlier export at the destination; nothing else"),
    "records_format": Flag(
        "jpeg",
        "jpeg (smallest), yuv420 (fastest photos) or raw (any channels and bits)",
        default="jpeg",
        name="format",
    ),
    "short_side": _integer("256", "pixels; larger images are shrunk to it, 0 keeps their size", 0, 256),
    "quality": _integer("90", "of jpeg, 1 to 100", 1),
    "channels": _integer("3", "of the images: 3 makes RGB, 1 luma", 1, 3),
    "value_range": _words("0,1", "values for black and white, for raw; default: measured"),
    "nodata": Flag("-9999", "value of no measurement, for raw", "float"),
    "splits": _words("train,val", "splits to prepare; default: all"),
    "topology": Flag("v5e:2x4", "hardware: v5p:4x4x4, v5e:16x16x2slices, h100:8, a100:2x8 (nodes x GPUs)"),
    "batch": _integer("N", "images per update; default: the config's", 1),
    "records": _integer("N", "images of the training data; default: those of ImageNet-1k", 1),
    "workers": _integer("N", "processes; default: one per core", 1),
    "check": _boolean("only scan: print the facts, write nothing, exit with 1 if files are unreadable"),
    "push": Flag(
        "USER/NAME", "upload the folder to the Hugging Face Hub, as a private model; with --to=hf"
    ),
    "public": _boolean("push a model that everybody can see"),
    "licence": Flag("ID", "of the weights, as the Hub spells it, such as apache-2.0, for the model card"),
    "with_paths": _boolean("keep local paths in the files that are written, such as of the data"),
    "synthetic": _boolean("random images in memory instead of the run's data: only the step is measured"),
    "profile": _boolean("trace some steps: time of products, attention, norms, GELU, copies and others"),
    "show_batch": _path("FILE.png", "draw a training batch as the network sees it, and do nothing else"),
}


def flag_name(flag: str) -> str:
    """Return the name of a flag as it is typed, of its key in FLAGS."""
    return FLAGS[flag].name or flag


def flag_usage(flag: str) -> str:
    """Return what to type for a flag, such as "--workdir=DIR", of its key in FLAGS."""
    value = FLAGS[flag].value
    return f"--{flag_name(flag)}={value}" if value else f"--{flag_name(flag)}"
