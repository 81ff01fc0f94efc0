"""`fastmim COMMAND`: flags and dispatch, nothing else."""

import os
import sys
from pathlib import Path

from fastmim_jax import __version__
from fastmim_jax.cli import parse
from fastmim_jax.errors import UserError

USAGE = """fastmim {version}: masked-image-modeling pre-training

    fastmim pretrain    --config=FILE.py[:VARIANT] --workdir=DIR [--config.KEY=VALUE ...]
    fastmim reconstruct --workdir=DIR [--images=DIR] [--count=N] [--step=N]
    fastmim probe       --workdir=DIR [--images=DIR] [--test=DIR] [--kinds=ridge,knn,linear,attentive]
    fastmim features    --workdir=DIR --images=DIR --out=FILE.npz|.parquet [--layers="block 12 mean"]
    fastmim finetune    --config=configs/finetune.py[:VARIANT] --config.init=DIR --workdir=DIR
    fastmim evaluate    --workdir=DIR [--images=DIR] [--out=FILE.csv]
    fastmim predict     --workdir=DIR --images=FILE_OR_DIR [--out=FILE.csv]
    fastmim convert     SOURCE DESTINATION [--to=official|timm|hf|...] [--encoder_only] [--image_size=224]
    fastmim verify      A B [--format=NAME]
    fastmim bench       --config=FILE.py[:VARIANT] [--workdir=DIR] [--show_batch=FILE.png]

Every config's docstring says what to expect; `fastmim COMMAND --help` lists the flags."""


def pretrain(values):
    """Pre-trains, or goes on pre-training, in --workdir."""
    config, workdir = _config(values, "method"), _workdir(values)
    import jax

    from fastmim_jax.evaluate.monitor import open_monitor
    from fastmim_jax.tools.reconstruct import draw_loss_curve, picture_hook
    from fastmim_jax.train.pretrain import pretrain
    from fastmim_jax.train.report import summarize

    _start_jax(values)
    hooks = [picture_hook] if config.run.picture_every else []
    hooks += [open_monitor(config)] if config.monitor.path else []
    pretrain(config, workdir, hooks)
    if jax.process_index():
        return
    draw_loss_curve(workdir)
    for line in _told(summarize(workdir), Path(workdir)):
        print(line)


def reconstruct(values):
    """Draws what a checkpoint fills in."""
    workdir = Path(_workdir(values))
    from fastmim_jax.tools.reconstruct import reconstruct

    _start_jax(values)
    print(reconstruct(workdir, values.images, values.count or 6, values.step))


def finetune(values):
    """Fine-tunes a classifier from config.init, or goes on fine-tuning, in --workdir."""
    config, workdir = _config(values, "model"), _workdir(values)
    from fastmim_jax.evaluate.best_checkpoint import BestCheckpoint
    from fastmim_jax.train.finetune import finetune

    _start_jax(values)
    finetune(config, workdir, BestCheckpoint)


def probe(values):
    """Reads classes from the frozen features of a checkpoint, layer by layer."""
    workdir = _workdir(values)
    from fastmim_jax.evaluate.probe import probe

    _start_jax(values)
    with _progress() as progress:
        probe(
            workdir,
            values.images,
            kinds=tuple(values.kinds),
            test=values.test,
            folds=values.folds,
            count=values.count or 20_000,
            step=values.step,
            out=values.out or Path(workdir) / "probe.json",
            log=progress.log,
            progress=progress.show,
        )


def features(values):
    """Writes frozen features of a folder of images to a file."""
    workdir = _workdir(values)
    for flag in ("images", "out"):
        if not values[flag].value:
            raise UserError(f"no --{flag} given: type --images=DIR --out=features.npz")
    from fastmim_jax.data.sources import evaluation_split, open_source
    from fastmim_jax.evaluate.features import write_features

    _start_jax(values)
    source = open_source(values.images, values.split or evaluation_split(values.images) or "train")
    with _progress() as progress:
        write_features(
            workdir,
            source,
            values.out,
            layers=tuple(values.layers),
            step=values.step,
            log=progress.log,
            progress=progress.show,
        )


def evaluate(values):
    """Accuracy of a fine-tuned checkpoint on a labelled folder."""
    workdir = _workdir(values)
    from fastmim_jax.evaluate.predict import evaluate

    _start_jax(values)
    with _progress() as progress:
        told = dict(log=progress.log, progress=progress.show)
        evaluate(workdir, values.images, step=values.step, out=values.out, **told)


def predict(values):
    """Tells the likeliest classes of an image, or of all in a folder."""
    workdir = _workdir(values)
    if not values.images:
        raise UserError("no images given: type --images=FILE, or a folder")
    from fastmim_jax.evaluate.predict import predict

    _start_jax(values)
    with _progress() as progress:
        told = dict(log=progress.log, progress=progress.show)
        predict(workdir, values.images, step=values.step, out=values.out, **told)


def convert(values):
    """Converts a checkpoint: from published files to ours, from ours to PyTorch, timm, Hugging Face, ..."""
    source, destination = _words(values, "fastmim convert SOURCE DESTINATION")
    from fastmim_jax.export.convert import convert

    _start_jax(values)
    convert(source, destination, _conversion(values))


def verify(values):
    """Compares two checkpoints layer by layer on the same images; exits with 1 if they differ."""
    first, second = _words(values, "fastmim verify A B")
    from fastmim_jax.export.verify import verify

    _start_jax(values)
    return 0 if verify(first, second, _conversion(values)) else 1


def _words(values, usage):
    if len(values.words) != 2:
        raise UserError(f"{len(values.words)} paths were given, expected 2: type {usage}")
    return values.words


def _conversion(values):
    from fastmim_jax.export.convert import Options

    size = tuple(map(int, values.image_size)) if values.image_size else None
    if size and (len(size) > 2 or min(size) < 1):
        given = ",".join(values.image_size)
        raise UserError(f"--image_size={given} is no size: type --image_size=224, or 160,224")
    return Options(
        format=values.format or "",
        key=values.key or "",
        to=values.to or "",
        step=values.step,
        encoder_only=values.encoder_only,
        partial=values.partial,
        image_size=size and (size[0], size[-1]),
        settings=tuple(values.set),
        overwrite=values.overwrite,
    )


def bench(values):
    """Measures the step, HOG within it, and the input pipeline; or draws what the network sees."""
    config = _config(values)
    from fastmim_jax.tools.bench import bench
    from fastmim_jax.tools.draw.contact_sheet import show_batch

    _start_jax(values)
    if values.show_batch:
        print(show_batch(config, values.show_batch))
    else:
        bench(config, values.workdir)


def _progress():
    from fastmim_jax.train.metrics import ProgressCounter

    return ProgressCounter("images")


def _told(summary, workdir):
    """Lines for the end of a run: where it ended, against what, and where the pictures are."""
    for name, loss in (("training", summary.train_loss), ("held-out", summary.eval_loss)):
        trivial = summary.baselines.get(name)
        if loss is not None and trivial:
            best = min(trivial, key=trivial.get)
            share = 1 - loss / trivial[best]
            side = "below" if share >= 0 else "above"
            yield (
                f"loss on {name} images: {loss:.4f}, {abs(share):.1%} {side} the best trivial predictor "
                f"({best}, {trivial[best]:.4f})"
            )
    pictures = sorted((workdir / "pictures").glob("step_*.png"))
    if pictures:
        yield f"reconstructions: {pictures[-1]}"
    yield f"curve:           {workdir / 'pictures' / 'curve.png'}"


CONVERSION = ("format", "key", "step", "partial", "set")
WORDS = ("convert", "verify")  # commands that are given paths without a flag
COMMANDS = {
    "pretrain": (pretrain, ("config", "workdir", "distributed")),
    "reconstruct": (reconstruct, ("workdir", "images", "count", "step")),
    "probe": (probe, ("workdir", "images", "test", "kinds", "folds", "count", "step", "out")),
    "features": (features, ("workdir", "images", "split", "layers", "out", "step")),
    "finetune": (finetune, ("config", "workdir", "distributed")),
    "evaluate": (evaluate, ("workdir", "images", "step", "out")),
    "predict": (predict, ("workdir", "images", "step", "out")),
    "convert": (convert, (*CONVERSION, "to", "encoder_only", "image_size", "overwrite")),
    "verify": (verify, CONVERSION),
    "bench": (bench, ("config", "workdir", "show_batch")),
}


def main(argv=None):
    """Runs a command and exits: 0 done, 1 different (`verify`), 2 bad input (one sentence on stderr)."""
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"fastmim: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("fastmim: interrupted", file=sys.stderr)
        sys.exit(130)
    if code:
        sys.exit(code)


def _run(argv):
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE.format(version=__version__))
        return
    name = argv.pop(0)
    if name not in COMMANDS:
        raise UserError(f"'{name}' is not a command: there is {', '.join(COMMANDS)}")
    command, wanted = COMMANDS[name]
    return command(parse(name, command.__doc__, wanted, argv, words=name in WORDS))


def _config(values, section=""):
    """The config that was given; section: "method" for pre-training, "model" for fine-tuning."""
    if values.config is None:
        raise UserError("no config given: type --config=configs/quickstart.py or another of configs/")
    if section and section not in values.config:
        command = "finetune" if section == "method" else "pretrain"
        raise UserError(f"this config is not for this command: type fastmim {command} with it")
    return values.config


def _workdir(values):
    if not values.workdir:
        raise UserError("no work directory given: type --workdir=DIR")
    return values.workdir


def _start_jax(values):
    """Quiets the libraries' information lines and joins the other processes, if any."""
    import jax
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if values.distributed:
        jax.distributed.initialize()


if __name__ == "__main__":
    main()
