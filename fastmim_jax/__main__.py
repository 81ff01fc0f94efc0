"""`fastmim COMMAND`: dispatch to the commands, and exit codes."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fastmim_jax import __version__
from fastmim_jax.cli import Command, command_help, escape_unprintable, parse, print_warnings, usage
from fastmim_jax.errors import UserError
from fastmim_jax.start_jax import start_jax


def pretrain(values, paths):
    """Pre-train in --workdir, or resume a run there."""
    config = _check_config(values.config, "method")
    from fastmim_jax.data.workers import start_resource_tracker

    start_resource_tracker()
    import jax

    from fastmim_jax.evaluate.monitor import open_monitor
    from fastmim_jax.tools.reconstruct import draw_loss_curve, picture_hook
    from fastmim_jax.train.pretrain import pretrain
    from fastmim_jax.train.report import summarize, summary_lines

    start_jax(values, config.run.peer_timeout_seconds)
    hooks = [picture_hook] if config.run.picture_every else []
    hooks += [open_monitor(config)] if config.monitor.path else []
    pretrain(config, values.workdir, hooks, accept_changed_data=values.accept_changed_data)
    if jax.process_index():
        return
    draw_loss_curve(values.workdir)
    for line in summary_lines(summarize(values.workdir), Path(values.workdir)):
        print(line)


def reconstruct(values, paths):
    """Draw the reconstructions of a checkpoint."""
    from fastmim_jax.tools.reconstruct import reconstruct

    start_jax()
    print(reconstruct(Path(values.workdir), values.images, values.count or 6, values.step))


def finetune(values, paths):
    """Fine-tune a classifier from config.init in --workdir, or resume a run there."""
    config = _check_config(values.config, "model")
    from fastmim_jax.data.workers import start_resource_tracker

    start_resource_tracker()
    from fastmim_jax.evaluate.best_checkpoint import BestCheckpoint
    from fastmim_jax.train.finetune import finetune

    start_jax(values, config.run.peer_timeout_seconds)
    finetune(config, values.workdir, BestCheckpoint, accept_changed_data=values.accept_changed_data)


def probe(values, paths):
    """Probe the frozen features of a checkpoint for classes, layer by layer."""
    from fastmim_jax.evaluate.probe import probe

    start_jax(values)
    with _progress() as progress:
        probe(
            values.workdir,
            values.images,
            test=values.test,
            folds=values.folds,
            step=values.step,
            out=values.out or Path(values.workdir) / "probe.json",
            log=progress.log,
            progress=progress.show,
            **({"kinds": tuple(values.kinds)} if values.kinds else {}),
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
            log=progress.log,
            progress=progress.show,
        )


def evaluate(values, paths):
    """Measure the accuracy of a fine-tuned checkpoint on labelled images."""
    from fastmim_jax.evaluate.predict import evaluate

    start_jax(values)
    with _progress() as progress:
        options = dict(step=values.step, out=values.out, log=progress.log, progress=progress.show)
        evaluate(values.workdir, values.images, **options)


def predict(values, paths):
    """Predict the classes of an image, or of all images in a folder."""
    from fastmim_jax.evaluate.predict import predict

    start_jax(values)
    with _progress() as progress:
        options = dict(step=values.step, out=values.out, log=progress.log, progress=progress.show)
        predict(values.workdir, values.images, **options)


def convert(values, paths):
    """Convert a checkpoint from published files, or to timm, Hugging Face, ONNX and other formats."""
    from fastmim_jax.export.convert import convert

    start_jax()
    options = _conversion(
        values,
        to=values.to or "",
        encoder_only=values.encoder_only,
        image_size=_image_size(values.image_size),
        overwrite=values.overwrite,
        with_paths=values.with_paths,
    )
    convert(*paths, options)


def verify(values, paths):
    """Compare two checkpoints layer by layer on the same images; exit with 1 if they differ."""
    from fastmim_jax.export.verify import verify

    start_jax()
    return 0 if verify(*paths, _conversion(values)) else 1


def bench(values, paths):
    """Measure the training step, HOG and the input pipeline; or draw a batch with --show_batch."""
    config = _check_config(values.config)
    from fastmim_jax.tools.bench import bench
    from fastmim_jax.tools.draw.contact_sheet import show_batch

    if values.show_batch and (values.distributed or values.coordinator):
        raise UserError("--show_batch draws in one process: leave out --distributed and --coordinator")
    start_jax(values, config.run.peer_timeout_seconds)
    if values.show_batch:
        print(show_batch(config, values.show_batch))
    else:
        bench(config, values.workdir, synthetic=values.synthetic, profile=values.profile)


def plan(values, paths):
    """Plan a run on TPUs or GPUs that are not here: memory, work, a bound on its hours, and what fits."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is imported: plug-ins must not look for a device
    config = _check_config(values.config)
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
    )


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

    return ProgressCounter("images")


SMALLER_COUNT = "type a smaller --count"
DISTRIBUTED = ("distributed", "coordinator", "processes", "process")
TRAINING = (*DISTRIBUTED, "accept_changed_data")
SMALLER_BATCH = "type a smaller --config.schedule.batch_size"
BENCH = ("workdir", "synthetic", "profile", "show_batch")
CONVERSION = ("format", "key", "prefix", "step", "partial", "set")
COMMANDS = {
    "pretrain": Command(pretrain, ("config", "workdir"), TRAINING, less_memory=SMALLER_BATCH),
    "reconstruct": Command(
        reconstruct, ("workdir",), ("images", "count", "step"), less_memory=SMALLER_COUNT
    ),
    "probe": Command(
        probe,
        ("workdir",),
        ("images", "test", "kinds", "folds", "count", "step", "out", *DISTRIBUTED),
        less_memory=SMALLER_COUNT,
    ),
    "features": Command(
        features,
        ("workdir", "images", "out"),
        ("split", "layers", "step", *DISTRIBUTED),
        less_memory="choose fewer --layers or fewer --images",
    ),
    "finetune": Command(finetune, ("config", "workdir"), TRAINING, less_memory=SMALLER_BATCH),
    "evaluate": Command(evaluate, ("workdir",), ("images", "step", "out", *DISTRIBUTED)),
    "predict": Command(predict, ("workdir", "images"), ("step", "out", *DISTRIBUTED)),
    "convert": Command(
        convert,
        optional=("to", "encoder_only", "image_size", "overwrite", "with_paths", *CONVERSION),
        paths=("SOURCE", "DESTINATION"),
    ),
    "verify": Command(verify, optional=CONVERSION, paths=("A", "B")),
    "prepare": Command(
        prepare,
        optional=(
            *("records_format", "short_side", "quality", "channels", "value_range", "nodata"),
            *("splits", "workers", "check"),
        ),
        paths=("SRC", "[DST]"),
        less_memory="type a smaller --workers",
    ),
    "plan": Command(plan, ("config", "topology"), ("batch", "records", "out")),
    "bench": Command(bench, ("config",), (*BENCH, *DISTRIBUTED), less_memory=SMALLER_BATCH),
}
HELP = ("-h", "-help", "--help", "help")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 different (`verify`), 2 bad input (one sentence on stderr)."""
    escape_unprintable()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
    except BaseException as error:
        peers = _peers()
        if peers is None:
            _refuse(error, words)
        else:
            from fastmim_jax.train.ending import end_together

            end_together(peers, error)
        raise
    peers = _peers()
    if peers is not None:
        peers.close()
    if code:
        sys.exit(code)


def _refuse(error, words):
    """Exit with a sentence, if an error has one."""
    if isinstance(error, UserError):
        print(f"fastmim: {error}", file=sys.stderr)
        sys.exit(2)
    if isinstance(error, KeyboardInterrupt):
        print("fastmim: interrupted", file=sys.stderr)
        sys.exit(130)
    if isinstance(error, Exception):
        from fastmim_jax.train.out_of_memory import is_out_of_memory, sentence

        if is_out_of_memory(error):
            print(f"fastmim: {sentence(error, COMMANDS[words[0]].less_memory)}", file=sys.stderr)
            sys.exit(2)


def _peers():
    """Return the other processes of a run, without importing anything for a command that has none."""
    module = sys.modules.get("fastmim_jax.train.peers")
    return module.current_peers() if module else None


def _run(argv):
    if not argv or argv[0] in HELP:
        print(_overview())
        return 0
    name, *words = argv
    if name not in COMMANDS:
        raise UserError(f"'{name}' is not a command; choose from: {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    if set(HELP[:3]).intersection(words):
        print(command_help(name, command))
        return 0
    print_warnings()
    return command.run(*parse(name, command, words))


def _overview():
    lines = [
        f"  {usage(name, command._replace(optional=()))}\n      {command.summary}"
        for name, command in COMMANDS.items()
    ]
    return "\n".join(
        [
            f"fastmim {__version__}: masked-image-modeling pre-training\n",
            *lines,
            "\nEvery config file says what to expect; `fastmim COMMAND --help` explains the flags.",
        ]
    )


def _check_config(config, section=""):
    """Check every key of a config and return it; section: "method" or "model" if the command needs it."""
    if section and section not in config:
        command = "finetune" if section == "method" else "pretrain"
        raise UserError(f"this config is for another command: type fastmim {command} with it")
    from fastmim_jax.validate import check_values

    check_values(config)
    return config


if __name__ == "__main__":
    main()
