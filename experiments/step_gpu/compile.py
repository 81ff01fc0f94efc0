"""The training step compiled for an NVIDIA GPU that is not there.

    python experiments/step_gpu/compile.py fastmim:vit_b16 --depth=4
    python experiments/step_gpu/compile.py mae:vit_b16 --topology=a100:1 method.remat=full
    python experiments/step_gpu/compile.py --all; python experiments/step_gpu/compile.py --table

Needs jax-cuda13-pjrt of jax's version, ptxas and libdevice, but no GPU and no driver; see README.md.
Triton matrix products are off by default: without a GPU there is no autotuning, and cuBLAS calls count no
FLOPs, so that `flops` are those of everything but the matrix products.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from ahead_of_time import EXPERIMENTS, command

from fastmim_jax.tools.plan.topology import open_devices, parse_topology

HERE = EXPERIMENTS / "step_gpu"
IMAGES = {  # a GPU, of every published base config
    "fastmim:vit_b16": 1024,
    "fastmim:swin_b": 512,
    "fastmim:pvt_v2_b2": 512,
    "fastmim:cmt_s": 512,
    "fastmim:convnext_b": 512,
    "mae:vit_b16": 1024,
    "mixmim:base": 256,
    "simmim:vit_b16": 256,
    "simmim:swin_b": 256,
    "pr_mim:mae_vit_b16": 1024,
    "pr_mim:mixmim_base": 256,
}


def main() -> None:
    parser = command.make_parser(__doc__.splitlines()[0], HERE / "results.jsonl")
    parser.add_argument("--topology", default="h100:1", help="h100 or a100, nodes and GPUs a node")
    parser.add_argument("--triton", action="store_true", help="matrix products by Triton, not by cuBLAS")
    args = parser.parse_intermixed_args()

    def devices() -> list:
        return open_devices(parse_topology(args.topology))

    name = args.topology.removesuffix(":1")
    command.run(args, name, devices, IMAGES, {"xla_gpu_enable_triton_gemm": args.triton})


if __name__ == "__main__":
    main()
