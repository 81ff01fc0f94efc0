"""Programs with cuDNN's attention, compiled where there is no cuDNN."""

VERSION = 91200  # of cuDNN, as the descriptions in targets/ have it


def assume_cudnn() -> None:
    """Let JAX trace cuDNN's attention without the library: it only compares the version.

    XLA compiles a call of the library then, whose arguments and results are planned like any others. Its
    workspace is unknown and counts nothing.
    """
    from jax._src.cudnn import fused_attention_stablehlo  # no public way

    fused_attention_stablehlo.check_cudnn_version = lambda: VERSION
