"""Advice to a run whose devices wait for data: the changes that make its own reading faster."""

from typing import Any

from ml_collections import ConfigDict

from fastmim_jax.build import StoredImages, stored_images
from fastmim_jax.data.cpus import cpu_share
from fastmim_jax.data.image_reader import ImageReader
from fastmim_jax.saved_config import kind_of

DECODED = ("yuv420", "raw")  # layouts of prepared images that need no decoding


def advise_stage(stage: Any, source: Any) -> str:
    """Return how the training data of a `TrainStage` can be read faster by this process."""
    on_cpu = stage.mesh.devices.flat[0].platform == "cpu"
    stored, cpus = stored_images(source), cpu_share().cpus
    return how_to_read_faster(stage.config, stage.reader, stored, cpus=cpus, on_cpu=on_cpu)


def how_to_read_faster(
    config: ConfigDict, reader: ImageReader, stored: StoredImages, *, cpus: int, on_cpu: bool
) -> str:
    """Return the changes that help, of a run that resumes and of a new one.

    Args:
      config: of training.
      reader: of its images.
      stored: its training data.
      cpus: of this process.
      on_cpu: whether the devices are CPUs.
    """
    now, new_run = _when_resumed(config, reader, cpus), _in_a_new_run(config, stored, on_cpu)
    advice = f"to read faster, try {_either(now)}"
    return f"{advice}; in a new run {_either(new_run)}" if new_run else advice


def _when_resumed(config: ConfigDict, reader: ImageReader, cpus: int) -> list[str]:
    readers = max(reader.workers, 1) * reader.threads
    cores = f"{cpus} CPU{'s' * (cpus != 1)}"
    if readers < cpus:
        workers = -(-cpus // reader.threads)
        choices = [f"--config.run.workers={workers} (now {reader.workers} on {cores})"]
    else:
        choices = [f"more CPU cores (now {cores}, all in use)"]
    uncached = config.data.get("cache") == ""  # segmentation has no cache
    return [*choices, "--config.data.cache=ram"] if uncached else choices


def _in_a_new_run(config: ConfigDict, stored: StoredImages, on_cpu: bool) -> list[str]:
    data, choices = config.data, []
    if kind_of(config) == "segment":
        return ["images and masks shrunk once to about the size of the crops"]
    layout = "yuv420" if data.channels == 3 else "raw"
    if not stored.layout:
        choices.append(f"a data set shrunk once by `fastmim prepare SRC DST --format={layout}`")
    elif stored.layout not in DECODED:
        choices.append(f"data prepared with --format={layout} instead of {stored.layout}")
    views = 2 * data.get("views_per_image", 0)  # fine-tuning has no views
    if views and config.schedule.batch_size % views == 0:
        choices.append(f"--config.data.views_per_image={views}")
    augmented = "augment" in config and config.augment.magnitude
    if stored.layout in DECODED and data.crop_on == "host" and not augmented and not on_cpu:
        choices.append("--config.data.crop_on=device (not measured)")
    return choices


def _either(choices: list[str]) -> str:
    first = ", ".join(choices[:-1])
    return f"{first} or {choices[-1]}" if first else choices[-1]
