"""Describe a run before its first step, and summarize it after its last."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from fastmim_jax.data.cpus import cpu_share
from fastmim_jax.data.decode import decoder_name
from fastmim_jax.data.resize import resizer_name
from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json
from fastmim_jax.mim.crossmae import CrossMAE
from fastmim_jax.models.cross_decoder import CrossDecoder
from fastmim_jax.models.decoder import Decoder
from fastmim_jax.plan import PretrainPlan, StagePlan, plan_warnings
from fastmim_jax.train.metrics import read_metrics
from fastmim_jax.train.runs import LoadedRun
from fastmim_jax.train.stage import TrainStage
from fastmim_jax.train.state import count_parameters
from fastmim_jax.train.transfer import TransferReport
from fastmim_jax.train.xla_options import compiler_options, describe_options

if TYPE_CHECKING:
    from fastmim_jax.train.finetune import FinetuneStage
    from fastmim_jax.train.pretrain import PretrainStage
    from fastmim_jax.train.segment import SegmentStage

BASELINES_FILE = "baselines.json"


class Note(NamedTuple):
    """One labelled line of a description."""

    label: str
    text: str


def log_notes(notes: Iterable[tuple[str, str]], log: Callable[[str], None]) -> None:
    """Log (label, text) pairs as a table."""
    for label, text in notes:
        log(f"{label:>14}  {text}")


def describe_pretraining(stages: Sequence["PretrainStage"], source: Any, held_out: Any) -> list[Note]:
    """Return the description of a pre-training run."""
    first = stages[0]
    config = first.config
    common = [
        Note("data", repr(source)),
        Note("held out", repr(held_out) if held_out else "none (--config.data.eval_path or eval_split)"),
        *_machine(first),
        Note(
            "method", f"{config.method.name} over {config.method.backbone.name} -> {config.method.target}"
        ),
        *_attention(first),
        *_partial(config.method.partial),
        *_scales(config.method, first.model.encoder.layer_names),
        _parameters(first, config.method.dtype),
        Note("records", f"{first.plan.records:,}, {config.data.channels} channels"),
        *_views(config.data),
    ]
    if len(stages) == 1:
        return [*common, *describe_plan(first.plan)]
    stage_notes = [Note(f"stage {stage.plan.stage + 1}", _in_a_line(stage.plan)) for stage in stages]
    total = Note("stages", f"{len(stages)}, {first.plan.total_steps:,} steps in all")
    return [*common, total, *stage_notes, *_warnings(first.plan)]


def describe_finetuning(
    stage: "FinetuneStage", source: Any, held_out: Any, start: Sequence[Note] = ()
) -> list[Note]:
    """Return the description of a fine-tuning run; start: see `describe_start`."""
    config, augment = stage.config, stage.config.augment
    return [
        Note("data", repr(source)),
        Note("evaluated on", f"{held_out!r}, every {config.run.eval_epochs:g} epochs"),
        *(Note("held out", text) for text in getattr(held_out, "notes", ())),
        *_machine(stage),
        Note("model", f"{config.model.backbone.name}, {stage.model.pooling}, {len(stage.classes)} classes"),
        *_attention(stage),
        _parameters(stage, config.model.dtype),
        *start,
        *describe_plan(stage.plan),
        _layer_wise(config),
        Note(
            "augmented by",
            f"RandAugment {augment.magnitude:g}, random erasing {augment.random_erasing:g}, "
            f"mixup {augment.mixup:g}, cutmix {augment.cutmix:g}, "
            f"label smoothing {augment.label_smoothing:g}",
        ),
    ]


def describe_segmentation(
    stage: "SegmentStage", source: Any, held_out: Any, start: Sequence[Note] = ()
) -> list[Note]:
    """Return the description of a run of segmentation; start: see `describe_start`."""
    config, model = stage.config, stage.model
    auxiliary = f", auxiliary loss x {config.loss.auxiliary_weight:g}" * bool(model.auxiliary_channels)
    data, strength = config.data, config.data.photometric_distortion
    colours = f", photometric distortion of strength {strength:g}" * bool(strength)
    return [
        Note("data", repr(source)),
        Note("evaluated on", f"{held_out!r}, every {config.run.eval_epochs:g} epochs"),
        *_machine(stage),
        Note(
            "model",
            f"{config.model.backbone.name}, {model.head} of {model.channels} channels, "
            f"{_count(len(stage.classes), 'class', 'es')}{auxiliary}",
        ),
        *_attention(stage),
        _parameters(stage, config.model.dtype),
        *start,
        *describe_plan(stage.plan),
        _layer_wise(config),
        Note("augmented by", "scales of {:g} to {:g}, crops, mirroring".format(*data.scale) + colours),
    ]


def _layer_wise(config: Any) -> Note:
    return Note(
        "layer-wise",
        f"learning rate x {config.optimizer.layer_decay:g} per block from the last to the first, "
        f"drop path up to {config.model.backbone.drop_path or 0:g}",
    )


def describe_start(loaded: LoadedRun, report: TransferReport) -> list[Note]:
    """Return which parameters of a loaded run a new run starts from."""
    return [
        Note("start", f"{loaded.path}, step {loaded.step:,}"),
        *(Note(*line) for line in report.describe()),
    ]


def describe_plan(plan: StagePlan) -> list[Note]:
    """Return the description of a run of one stage."""
    steps = f"{plan.last_step - plan.first_step:,}"
    notes = [
        Note("images", _images(plan)),
        Note("batch", _batch(plan)),
        Note("steps", f"{steps} = {_epochs(plan)}"),
        Note("learning rate", _learning_rate(plan)),
        *_warnings(plan),
    ]
    if isinstance(plan, PretrainPlan):
        rows, columns = plan.blocks
        notes.append(Note("tokens", _tokens(plan)))
        notes.append(Note("masked blocks", f"{plan.num_masked} of {rows} x {columns} = {rows * columns}"))
    return notes


def _warnings(plan: StagePlan) -> list[Note]:
    return [Note("warning", sentence) for sentence in plan_warnings(plan)]


def _in_a_line(plan: PretrainPlan) -> str:
    return (
        f"steps {plan.first_step + 1:,} to {plan.last_step:,} = {_epochs(plan)}, images {_images(plan)}, "
        f"tokens {_tokens(plan)}, batch {_batch(plan)}, learning rate {_learning_rate(plan)}"
    )


def _images(plan):
    return f"{plan.image_size[0]} x {plan.image_size[1]} pixels"


def _batch(plan):
    if plan.auto_accumulation:
        return f"{plan.batch_size:,}, in as few parts as fit in memory"
    per_device = plan.batch_size // plan.devices // plan.accumulation
    parts = f" in {plan.accumulation} parts" if plan.accumulation > 1 else ""
    return f"{plan.batch_size:,}{parts}, {per_device:,} per device at a time"


def _epochs(plan):
    epochs = plan.epoch(plan.last_step) - plan.epoch(plan.first_step)
    return f"{epochs:,.4g} epochs of {plan.steps_per_epoch:,.4g}"


def _learning_rate(plan):
    return f"{plan.peak_lr:.4g} after {plan.warmup_epochs:.4g} epochs of warm-up"


def _tokens(plan):
    return f"{plan.grid[0]} x {plan.grid[1]}"


def _attention(stage: TrainStage) -> list[Note]:
    """Return which kernels compute attention on the devices of a stage."""
    parts = {"encoder": stage.model.encoder}
    if getattr(stage.model, "decoder", None):
        kind = CrossDecoder if isinstance(stage.model, CrossMAE) else Decoder
        parts["decoder"] = kind(1, **stage.model.decoder)
    with jax.set_mesh(stage.mesh):
        kernels = {name: part.attention_kernel for name, part in parts.items()}
    text = ", ".join(f"{kernel} in the {name}" for name, kernel in kernels.items() if kernel)
    return [Note("attention", f"kernel {text}")] if text else []


def _machine(stage: TrainStage) -> list[Note]:
    """Return who reads the images, the devices, and what several of them have to agree on."""
    reader, devices = stage.reader, stage.mesh.devices.ravel()
    mesh = " x ".join(f"{size} {axis}" for axis, size in stage.mesh.shape.items())
    share = cpu_share()
    shared = f", shared by {share.processes} processes" if share.processes > 1 else ""
    cpus = f"{_count(share.cpus, 'CPU')}{shared}"
    workers, threads = _count(reader.workers, "worker process", "es"), _count(reader.threads, "thread")
    readers = f"{workers}, {threads} each ({cpus})"
    processes = _count(jax.process_count(), "process", "es")
    on_devices = "; YCbCr crops, converted on the devices" if reader.layout == "yuv420" else ""
    if reader.canvas is not None:
        height, width = reader.canvas
        on_devices += f"; whole images of up to {height} x {width} pixels, cropped on the devices"
    notes = [
        Note("reading", f"{readers}; {decoder_name()}; {resizer_name()}{on_devices}"),
        Note("devices", f"{len(devices)} {devices[0].device_kind} ({mesh}), {processes}"),
    ]
    if len(devices) > 1:
        split = (
            "split over all devices" if stage.config.run.shard_optimizer_state else "split like parameters"
        )
        gradients = f"summed over devices in {stage.config.optimizer.gradient_dtype}"
        notes.append(Note("gradients", f"{gradients}; optimizer state {split}"))
    options = compiler_options(stage.mesh)
    return [*notes, Note("XLA options", describe_options(options))] if options else notes


def _views(data: Any) -> list[Note]:
    """Return how many views of an image follow each other; none for one."""
    views = data.views_per_image
    if views == 1:
        return []
    kind = f"{views} crops" if data.views == "crops" else f"{views} disjoint masks of one crop"
    return [Note("views", f"{kind} of each image in a row; an epoch is as many views as images")]


def _parameters(stage: TrainStage, dtype: str) -> Note:
    return Note("parameters", f"{count_parameters(stage.abstract.params):,}, computing in {dtype}")


def _partial(partial: Any) -> list[Note]:
    """Return the description of partial reconstruction; none where everything is decoded."""
    if not partial.throw_ratio:
        return []
    rest = f"filled in ({partial.fill.replace('_', ' ')})"
    if partial.fill == "none":
        rest = "left out of the loss"
    text = f"{partial.throw_ratio:.0%} of the tokens: not decoded ({partial.sampler}), {rest}"
    return [Note("thrown", text)]


def _scales(method: Any, layers: Sequence[str]) -> list[Note]:
    """Return the scales of the target and the layers that predict them; none for one scale."""
    by = [f" by {layers[number - 1]}" for number in method.local_layers] or [""] * len(method.target_scales)
    squares = [f"{size} pixels{who}" for size, who in zip(method.target_scales, by, strict=True)]
    return [Note("scales", ", ".join(squares))] if squares else []


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}" + plural * (number != 1)


class Summary(NamedTuple):
    """The end of a run.

    Attributes:
      steps: updates done.
      train_loss: mean over the last logged steps, or None.
      eval_loss: the last held-out loss, or None.
      baselines: {"training": {guess: loss}, "held-out": ...}, of trivial predictors, in the last stage.
    """

    steps: int
    train_loss: float | None
    eval_loss: float | None
    baselines: dict[str, dict[str, float]]


def summarize(workdir: str | Path, last: int = 20) -> Summary:
    """Return the Summary of a work directory.

    last: number of logged steps to average the loss over, at most a fifth of them.
    """
    lines = read_metrics(workdir).records
    losses = [line["loss"] for line in lines if "loss" in line]
    eval_losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    tail = losses[-min(last, -(-len(losses) // 5) or 1) :]
    return Summary(
        steps=max((line["step"] for line in lines), default=0),
        train_loss=sum(tail) / len(tail) if tail else None,
        eval_loss=eval_losses[-1] if eval_losses else None,
        baselines=next(reversed(read_baselines(workdir)), {}),
    )


def summary_lines(summary: Summary, workdir: Path) -> Iterator[str]:
    """Yield the lines at the end of a run: its losses against trivial predictors, and its pictures."""
    for name, loss in (("training", summary.train_loss), ("held-out", summary.eval_loss)):
        trivial = summary.baselines.get(name)
        if loss is not None and trivial:
            best = min(trivial, key=lambda guess: trivial[guess])
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


def read_baselines(workdir: str | Path) -> list[dict[str, dict[str, float]]]:
    """Return {"training": {guess: loss}, "held-out": ...} of each stage that has started.

    Raises:
      UserError: baselines.json cannot be read, or holds something else.
    """
    path = Path(workdir) / BASELINES_FILE
    if not path.exists():
        return []
    expected = "the losses of trivial predictors: delete it"
    content = read_json(path, (dict, list), expected)
    stages = [content] if isinstance(content, dict) else content  # a dict: written before there were stages
    losses = [losses for stage in stages if isinstance(stage, dict) for losses in stage.values()]
    numbers = [loss for guesses in losses if isinstance(guesses, dict) for loss in guesses.values()]
    whole = all(isinstance(x, dict) for x in (*stages, *losses))
    if not whole or not all(isinstance(loss, (int, float)) for loss in numbers):
        raise UserError(f"{path} cannot be read (it holds other values), expected {expected}")
    return stages
