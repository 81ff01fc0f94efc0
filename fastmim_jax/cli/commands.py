"""The commands: what each runs, and its flags."""

import os
import sys
from pathlib import Path

from fastmim_jax.cli.command import Command
from fastmim_jax.cli.training import check_measurable, finetune, is_segmentation, pretrain, segment
from fastmim_jax.errors import UserError
from fastmim_jax.paths import local_path
from fastmim_jax.run_folder import find_checkpoint
from fastmim_jax.start_jax import start_jax


def reconstruct(values, paths):
    """Draw the reconstructions of a checkpoint."""
    from fastmim_jax.tools.reconstruct import reconstruct
    from fastmim_jax.train.remote.reading import local_run

    start_jax()
    workdir = Path(local_run(values.workdir, values.step))
    print(reconstruct(workdir, values.images, values.count or 6, values.step, values.set))


def probe(values, paths):
    """Probe the frozen features of a checkpoint, layer by layer, for classes of images or of pixels."""
    from fastmim_jax.evaluate.dense_probes.probe import OPTIONS, are_dense, check_no_options
    from fastmim_jax.evaluate.probe import probe
    from fastmim_jax.train.remote.reading import local_run

    options = {name: getattr(values, name) for name in OPTIONS}
    options |= dict(layers=tuple(values.layers), legend=values.legend or "")
    if are_dense(values.kinds):
        return _dense_probe(values, options)
    check_no_options(options)
    start_jax(values)
    run = local_run(values.workdir, values.step)
    with _progress() as progress:
        probe(
            run,
            values.images,
            test=values.test,
            folds=values.folds,
            step=values.step,
            settings=values.set,
            out=values.out or find_checkpoint(run).workdir / "probe.json",
            log=progress.log,
            progress=progress.show,
            **({"kinds": tuple(values.kinds)} if values.kinds else {}),
            **({"count": values.count} if values.count else {}),
        )


def _dense_probe(values, options):
    from fastmim_jax.evaluate.dense_probes.probe import check_given, dense_probe
    from fastmim_jax.train.remote.reading import local_run

    check_given(values.images or None, values.folds)
    start_jax(values)
    run = local_run(values.workdir, values.step)
    with _progress() as progress:
        dense_probe(
            run,
            values.images,
            kinds=tuple(values.kinds),
            test=values.test,
            step=values.step,
            settings=values.set,
            out=values.out or find_checkpoint(run).workdir / "dense_probe.json",
            log=progress.log,
            progress=progress.show,
            **options,
            **({"count": values.count} if values.count else {}),
        )


def features(values, paths):
    """Write the frozen features of a folder of images to a file."""
    from fastmim_jax.data.sources import evaluation_split, open_source
    from fastmim_jax.evaluate.features import write_features

    start_jax(values)
    source = open_source(values.images, values.split or evaluation_split(values.images) or "train")
    with _progress() as progress:
        write_features(
            values.workdir,
            source,
            values.out,
            layers=tuple(values.layers),
            step=values.step,
            settings=values.set,
            log=progress.log,
            progress=progress.show,
        )


def evaluate(values, paths):
    """Measure the accuracy of a fine-tuned checkpoint on labelled images, or the mIoU of a segmentation."""
    _read_images(values, "evaluate")


def predict(values, paths):
    """Predict the classes of images, or of all their pixels, in a file or folder."""
    _read_images(values, "predict")


def _read_images(values, function):
    """Call a function of `evaluate.predict`, or of its namesake for segmentations."""
    start_jax(values)
    if is_segmentation(values.workdir, values.step):
        from fastmim_jax.evaluate.segmentation import predict
    else:
        from fastmim_jax.evaluate import predict
    with _progress() as progress:
        options = dict(step=values.step, settings=values.set, out=values.out)
        options |= dict(log=progress.log, progress=progress.show)
        getattr(predict, function)(values.workdir, values.images, **options)


def convert(values, paths):
    """Convert a checkpoint from published files, or to timm, Hugging Face, ONNX and other formats."""
    from fastmim_jax.export.convert import convert
    from fastmim_jax.export.destination.hub import check_push, convert_and_push

    check_push(values.push, values.to, values.public)
    start_jax()
    options = _conversion(
        values,
        to=values.to or "",
        encoder_only=values.encoder_only,
        image_size=_image_size(values.image_size),
        overwrite=values.overwrite,
        with_paths=values.with_paths,
        hub=values.push or "",
        licence=values.licence or "",
    )
    if values.push:
        convert_and_push(*paths, options, public=values.public)
    else:
        convert(*paths, options)


def verify(values, paths):
    """Compare two checkpoints layer by layer on the same images; exit with 1 if they differ."""
    from fastmim_jax.export.verify import verify

    start_jax()
    return 0 if verify(*paths, _conversion(values)) else 1


def compare(values, paths):
    """Compare the log of a run with those of others: their last values, and their curves in one picture."""
    from fastmim_jax.tools.compare import compare

    others = [local_path(path, "--with=") for path in values["with"].value]
    compare(paths[0], others, values.out)


def bench(values, paths):
    """Measure the training step, HOG and the input pipeline; or draw a batch with --show_batch."""
    config = check_measurable(values.config)
    from fastmim_jax.tools.bench import bench
    from fastmim_jax.tools.contact_sheet import show_batch

    if values.show_batch and (values.distributed or values.coordinator):
        raise UserError("--show_batch draws in one process: leave out --distributed and --coordinator")
    if values.workdir:
        local_path(values.workdir, "--workdir=")
    start_jax(values, config.run.peer_timeout_seconds)
    if values.show_batch:
        print(show_batch(config, values.show_batch))
    else:
        bench(config, values.workdir, synthetic=values.synthetic, profile=values.profile)


def plan(values, paths):
    """Plan a run on TPUs or GPUs that are not here: memory, work, a bound on its hours, and what fits."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is imported: plug-ins must not look for a device
    config = check_measurable(values.config)
    from fastmim_jax.tools.plan.command import plan

    return plan(config, values.topology, values.batch, values.records, values.out)


def prepare(values, paths):
    """Write a data set once as shards of small images, which training reads many times faster."""
    from fastmim_jax.tools.prepare.command import prepare

    return prepare(
        *[*paths, None][:2],
        layout=values.format,
        short_side=values.short_side,
        quality=values.quality,
        channels=values.channels,
        value_range=values.value_range,
        nodata=values.nodata,
        splits=values.splits,
        workers=values.workers,
        check=values.check,
        with_paths=values.with_paths,
    )


def configs(values, paths):
    """List the bundled configs and their variants, or describe one file."""
    from fastmim_jax.cli.lists import config_lines

    _print(config_lines(*paths))


def models(values, paths):
    """List the backbones, and the parameters of those whose name begins with NAME."""
    from fastmim_jax.cli.lists import model_lines

    _print(model_lines(*paths))


def config(values, paths):
    """List every key of a config: its value, its default and its meaning."""
    from fastmim_jax.cli.lists import key_lines

    _print(key_lines(values.config))


def _print(lines):
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # `fastmim config ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _conversion(values, **options):
    from fastmim_jax.export.convert import Options

    return Options(
        format=values.format or "",
        key=values.key or "",
        prefix=values.prefix,
        step=values.step,
        partial=values.partial,
        settings=tuple(values.set),
        **options,
    )


def _image_size(words):
    """Return (height, width) of the words of --image_size, or None without any."""
    if not words:
        return None
    sides = [int(word) for word in words if word.isdecimal()]
    if len(sides) != len(words) or len(sides) > 2 or min(sides) < 1:
        raise UserError(
            f"--image_size is {','.join(words)}, expected a side or height,width in pixels: type "
            "--image_size=224 or --image_size=160,224"
        )
    return sides[0], sides[-1]


def _progress():
    from fastmim_jax.train.metrics import ProgressCounter

    return ProgressCounter("images", COMMANDS["predict"].as_typed)


SMALLER_COUNT = "type a smaller --count"
DISTRIBUTED = ("distributed", "coordinator", "processes", "process")
TRAINING = (*DISTRIBUTED, "accept_changed_data", "extend")
SMALLER_BATCH = "type a smaller --config.schedule.batch_size"
BENCH = ("workdir", "synthetic", "profile", "show_batch")
CONVERSION = ("format", "key", "prefix", "step", "partial", "set")
# Words that users try, and the commands that they mean.
COMMAND_SYNONYMS = {
    "train": "pretrain",
    "tune": "finetune",
    "embed": "features",
    "extract": "features",
    "export": "convert",
    "test": "evaluate",
    "eval": "evaluate",
    "view": "reconstruct",
    "visualize": "reconstruct",
    "infer": "predict",
    "list": "configs",
    "benchmark": "bench",
    "linprobe": "probe",
    "check": "prepare",
    "segmentation": "segment",
}
COMMANDS = {
    "pretrain": Command(pretrain, ("config", "workdir"), TRAINING, less_memory=SMALLER_BATCH),
    "reconstruct": Command(
        reconstruct, ("workdir",), ("images", "count", "step", "reading"), less_memory=SMALLER_COUNT
    ),
    "probe": Command(
        probe,
        ("workdir",),
        (
            *("images", "test", "kinds", "probed_layers", "legend", "depth_unit", "eval_mode"),
            *("eval_resize", "folds", "count", "step", "reading", "out", *DISTRIBUTED),
        ),
        less_memory=SMALLER_COUNT,
    ),
    "features": Command(
        features,
        ("workdir", "images", "out"),
        ("split", "layers", "step", "reading", *DISTRIBUTED),
        less_memory="choose fewer --layers or fewer --images",
    ),
    "finetune": Command(finetune, ("config", "workdir"), TRAINING, less_memory=SMALLER_BATCH),
    "segment": Command(segment, ("config", "workdir"), TRAINING, less_memory=SMALLER_BATCH),
    "evaluate": Command(evaluate, ("workdir",), ("images", "step", "reading", "out", *DISTRIBUTED)),
    "predict": Command(predict, ("workdir", "images"), ("step", "reading", "out", *DISTRIBUTED)),
    "convert": Command(
        convert,
        optional=(
            *("to", "encoder_only", "image_size", "overwrite", "with_paths", "push", "public", "licence"),
            *CONVERSION,
        ),
        paths=("SOURCE", "DESTINATION"),
    ),
    "verify": Command(verify, optional=CONVERSION, paths=("A", "B")),
    "compare": Command(compare, optional=("with", "out"), paths=("RUN",)),
    "prepare": Command(
        prepare,
        optional=(
            *("records_format", "short_side", "quality", "channels", "value_range", "nodata"),
            *("splits", "workers", "check", "with_paths"),
        ),
        paths=("SRC", "[DST]"),
        less_memory="type a smaller --workers",
    ),
    "configs": Command(configs, paths=("[NAME]",)),
    "config": Command(config, ("config",)),
    "models": Command(models, paths=("[NAME]",)),
    "plan": Command(plan, ("config", "topology"), ("batch", "records", "out")),
    "bench": Command(bench, ("config",), (*BENCH, *DISTRIBUTED), less_memory=SMALLER_BATCH),
}
