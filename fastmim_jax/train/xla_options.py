"""The compiler options of a training step on several devices."""

import os
from collections.abc import Mapping

import jax

# Options of XLA by platform, given to the compiler with the training step: an option that the installed
# compiler does not know ends in an error of Python, where an unknown flag in XLA_FLAGS aborts the process.
# Sources: docs.jax.dev "GPU performance tips", NVIDIA JAX-Toolbox, MaxText's recipes for TPUs.
RECOMMENDED: dict[str, dict[str, bool | int]] = {
    "gpu": {
        # Start collectives as early and wait for them as late as the memory allows.
        "xla_gpu_enable_latency_hiding_scheduler": True,
        # Buckets of gradients: one reduction of all of them could not overlap with the backward pass.
        "xla_gpu_all_reduce_combine_threshold_bytes": 32 * 2**20,
        "xla_gpu_reduce_scatter_combine_threshold_bytes": 32 * 2**20,
        "xla_gpu_all_gather_combine_threshold_bytes": 32 * 2**20,
    },
    "tpu": {
        "xla_tpu_enable_data_parallel_all_reduce_opt": True,
        "xla_tpu_data_parallel_opt_different_sized_ops": True,
        # Run collectives beside the matrix products.
        "xla_tpu_enable_async_collective_fusion": True,
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
        "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
        "xla_tpu_overlap_compute_collective_tc": True,
        "xla_enable_async_all_gather": True,
    },
}
FLAGS_OF_USER = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # environment variables


def compiler_options(
    mesh: jax.sharding.Mesh, environ: Mapping[str, str] = os.environ
) -> dict[str, bool | int]:
    """Return the options of RECOMMENDED for a mesh of several devices; {} for one device and for CPUs.

    Options that the user sets in XLA_FLAGS or LIBTPU_INIT_ARGS are left out: the user's values count.
    NCCL needs none: it chooses its algorithms itself, and reads its own variables (NCCL_*).
    """
    if mesh.size == 1:
        return {}
    words = " ".join(environ.get(name, "") for name in FLAGS_OF_USER).split()
    chosen = {word.lstrip("-").partition("=")[0] for word in words}
    options = RECOMMENDED.get(mesh.devices.flat[0].platform, {})
    return {name: value for name, value in options.items() if name not in chosen}


def describe_options(options: Mapping[str, bool | int]) -> str:
    """Return the options in one line."""
    return " ".join(f"{name}={str(value).lower()}" for name, value in options.items())
