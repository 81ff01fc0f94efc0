"""An inference function as an ONNX file, written by jax2onnx and checked against the model."""

import hashlib
import logging
from collections.abc import Callable
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from fastmim_jax.data.values import WHITE
from fastmim_jax.errors import UserError
from fastmim_jax.export.bundle import ModelBundle
from fastmim_jax.export.extras import require
from fastmim_jax.export.programs.stablehlo import check_size, image_function, output_names, pixel_dtype
from fastmim_jax.io import atomic_write
from fastmim_jax.paths import local_path

SIGNATURE = "fastmim_jax_sha256"  # of the graph, in the metadata
TOLERANCE = 1e-4  # of the largest value of an output
CHECKED_BATCHES = (1, 3)  # batch sizes of the check
PACKAGES = ("jax2onnx", "onnx", "onnxruntime")


def write_onnx(bundle: ModelBundle, path: str | Path, overwrite: bool = False) -> str:
    """Write a model's inference function as `stablehlo.write_function` does, but for ONNX runtimes.

    Input "images" (B, H, W, C) for any B, of `stablehlo.pixel_dtype`; outputs named as by
    `stablehlo.output_names`, float32. The file's metadata lists the names of classes under "classes",
    one a line.

    Args:
      overwrite: replace a file at `path`.

    Returns:
      Facts on the file in words, without its path, and the difference between onnxruntime and JAX.

    Raises:
      UserError: jax2onnx cannot write this model, the file computes other values than the model, more
        parameters than `stablehlo.MAX_GIB`, a path that exists, or a missing package.
    """
    check_size(bundle)
    jax2onnx, onnx, runtime = (require(name, "onnx") for name in PACKAGES)
    path = Path(local_path(path))
    with atomic_write(path, overwrite) as file:
        proto = _to_proto(jax2onnx, bundle)
        onnx.helper.set_model_props(proto, {"classes": "\n".join(bundle.classes), SIGNATURE: _sign(proto)})
        onnx.save(proto, file)
        difference = _check(runtime, bundle, file)
        size = file.stat().st_size
    (height, width, channels), dtype = bundle.image_shape, pixel_dtype(bundle)
    return (
        f"{size / 2**20:.1f} MiB, {dtype} images (B, {height}, {width}, {channels}) to "
        f"{', '.join(output_names(bundle))} in float32; within {difference:.1e} of the model, by "
        f"onnxruntime {runtime.__version__} on the CPU"
    )


def is_unchanged(path: Path) -> bool:
    """Return whether `write_onnx` wrote a file, and nobody has changed its graph."""
    try:
        proto = require("onnx", "onnx").load(path)
    except Exception:  # of protobuf, which onnx does not name; or onnx is not installed
        return False
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    return metadata.get(SIGNATURE) == _sign(proto)


def _sign(proto) -> str:
    return hashlib.sha256(proto.graph.SerializeToString(deterministic=True)).hexdigest()


def batch_function(bundle: ModelBundle) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
    """Return the function of a batch, (B, H, W, C) -> outputs, in JAX primitives alone.

    jax2onnx has rules of its own for Flax modules, which do not work under vmap.
    """
    image = jax.ShapeDtypeStruct(bundle.image_shape, pixel_dtype(bundle))
    jaxpr = jax.make_jaxpr(lambda x: _ordered(image_function(bundle)(x), bundle))(image)
    function = jaxpr_as_fun(_inline_default_branches(jaxpr))
    return jax.vmap(lambda image: tuple(function(image)))


def _inline_default_branches(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Replace every `jax.lax.platform_dependent` by the equations of its default branch.

    jax2onnx lacks the primitive `platform_index`, and JAX chooses a branch only on lowering to StableHLO.
    """
    constvars, consts, eqns = list(closed.jaxpr.constvars), list(closed.consts), []
    for eqn in closed.jaxpr.eqns:
        platforms = eqn.params.get("branches_platforms")
        if eqn.primitive.name == "platform_index":
            continue  # the first operand of the conds below, which go too
        if not platforms:
            eqns.append(eqn)
            continue
        branch = eqn.params["branches"][platforms.index(None)]
        outer = dict(zip(branch.jaxpr.invars, eqn.invars[1:], strict=True))
        outer |= zip(branch.jaxpr.outvars, eqn.outvars, strict=True)

        def rename(variables, outer=outer):
            return [v if isinstance(v, Literal) else outer.get(v, v) for v in variables]

        eqns += [x.replace(invars=rename(x.invars), outvars=rename(x.outvars)) for x in branch.jaxpr.eqns]
        constvars += branch.jaxpr.constvars
        consts += branch.consts
    return ClosedJaxpr(closed.jaxpr.replace(eqns=eqns, constvars=constvars), consts)


def _ordered(values, bundle):
    return tuple(values[name] for name in output_names(bundle))


def _to_proto(jax2onnx, bundle):
    """Return an ONNX ModelProto."""
    images = jax.ShapeDtypeStruct(("b", *bundle.image_shape), pixel_dtype(bundle))
    names = dict(input_names=["images"], output_names=list(output_names(bundle)))
    try:
        with _without_warnings():
            return jax2onnx.to_onnx(batch_function(bundle), inputs=[images], model_name="fastmim", **names)
    except (NotImplementedError, ValueError, TypeError, RuntimeError) as error:  # of unsupported primitives
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"jax2onnx {version('jax2onnx')} cannot write this model ({reason}): type --to=stablehlo"
        ) from error


@contextmanager
def _without_warnings():
    """Disable logging: jax2onnx warns of every shape and every rule of its own that it cannot use."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _check(runtime, bundle, file):
    """Return the largest difference between the file and the model, relative to the largest value."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    levels = random.integers(0, 256, (max(CHECKED_BATCHES), *bundle.image_shape), dtype=np.uint8)
    dtype = pixel_dtype(bundle)
    pixels = (levels * (WHITE[dtype.name] / 255)).astype(dtype)
    expected = _ordered(jax.jit(jax.vmap(image_function(bundle)))(pixels), bundle)
    worst = 0.0
    for size in CHECKED_BATCHES:
        outputs = session.run(list(output_names(bundle)), {"images": pixels[:size]})
        for ours, theirs in zip(expected, outputs, strict=True):
            ours = np.asarray(ours[:size])
            worst = max(worst, float(np.abs(ours - theirs).max() / np.abs(ours).max()))
    if not worst <= TOLERANCE:
        raise UserError(
            f"the ONNX file differs from the model by {worst:.1e} of its largest value, expected at most "
            f"{TOLERANCE}, and was deleted: type --to=stablehlo"
        )
    return worst
