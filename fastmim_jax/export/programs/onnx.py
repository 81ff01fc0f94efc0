"""An inference function as an ONNX file, by jax2onnx; nothing is left there that gives other numbers."""

import logging
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import require
from fastmim_jax.export.programs.stablehlo import check_size, image_function, outputs
from fastmim_jax.io import atomic_write

TOLERANCE = 1e-4  # of the largest value of an output
COUNTS = (1, 3)  # images at once, in the check
PACKAGES = ("jax2onnx", "onnx", "onnxruntime")


def write_onnx(model, path, overwrite=False):
    """Writes what a model does with images, as `exported.write_function` does, but for ONNX runtimes.

    Input "images" (B, H, W, C) uint8 for any B, outputs by the names of `exported.outputs`, float32. The
    file's metadata has the names of classes under "classes", one a line.

    Args:
      model: `model.ModelBundle`. path: of the file. overwrite: what is there.

    Returns:
      What was written, a sentence, with the difference that onnxruntime has from JAX here.

    Raises:
      UserError: jax2onnx cannot write this model, its file gives other numbers than the model, parameters
        beyond `exported.LARGEST`, a path that exists, or a package of the extra is not installed.
    """
    check_size(model)
    jax2onnx, onnx, runtime = (require(name, "onnx") for name in PACKAGES)
    path = Path(path).expanduser()
    with atomic_write(path, overwrite) as file:
        proto = _convert(jax2onnx, model)
        onnx.helper.set_model_props(proto, {"classes": "\n".join(model.classes)})
        onnx.save(proto, file)
        difference = _check(runtime, model, file)
        size = file.stat().st_size
    height, width, channels = model.image_shape
    return (
        f"{path} ({size / 2**20:.1f} MiB): uint8 images (B, {height}, {width}, {channels}) to "
        f"{', '.join(outputs(model))} in float32; within {difference:.1e} of the model, by onnxruntime "
        f"{runtime.__version__} on the CPU"
    )


def traced(model):
    """The function of a batch, of JAX's primitives alone: (B, H, W, C) uint8 -> what `outputs` names.

    jax2onnx has rules of its own for Flax's modules, which cannot be mapped over a batch. Where the models
    choose by platform, none is named here.
    """

    def anywhere(*args, default, **_):
        return default(*args)

    with mock.patch.object(jax.lax, "platform_dependent", anywhere):
        image = jax.ShapeDtypeStruct(model.image_shape, jnp.uint8)
        of_one = jaxpr_as_fun(jax.make_jaxpr(lambda x: _in_order(image_function(model)(x), model))(image))
    return jax.vmap(lambda image: tuple(of_one(image)))


def _in_order(found, model):
    return tuple(found[name] for name in outputs(model))


def _convert(jax2onnx, model):
    """An ONNX ModelProto."""
    images = jax.ShapeDtypeStruct(("b", *model.image_shape), jnp.uint8)
    names = dict(input_names=["images"], output_names=list(outputs(model)))
    before = logging.root.manager.disable
    logging.disable(
        logging.WARNING
    )  # one for every shape that it cannot tell, and every rule it cannot load
    try:
        return jax2onnx.to_onnx(traced(model), inputs=[images], model_name="fastmim", **names)
    except (NotImplementedError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"jax2onnx {jax2onnx.__version__} cannot write this model ({reason}): type --to=stablehlo"
        ) from error
    finally:
        logging.disable(before)


def _check(runtime, model, file):
    """The largest difference between the file and the model, as a share of the largest value."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (max(COUNTS), *model.image_shape), dtype=np.uint8)
    wanted = _in_order(jax.jit(jax.vmap(image_function(model)))(pixels), model)
    worst = 0.0
    for count in COUNTS:
        found = session.run(list(outputs(model)), {"images": pixels[:count]})
        for ours, theirs in zip(wanted, found, strict=True):
            ours = np.asarray(ours[:count])
            worst = max(worst, float(np.abs(ours - theirs).max() / np.abs(ours).max()))
    if not worst <= TOLERANCE:
        raise UserError(
            f"the ONNX file differs from the model by {worst:.1e} of its largest value, expected at most "
            f"{TOLERANCE}, and is not kept: type --to=stablehlo"
        )
    return worst
