"""The training step compiled for a slice of TPUs that is not there.

    python experiments/step_tpu/compile.py fastmim:vit_b16
    python experiments/step_tpu/compile.py mixmim:base --images=64 --topology=v5e:2x2
    python experiments/step_tpu/compile.py --all; python experiments/step_tpu/compile.py --table

Needs libtpu (`pip install "fastmim_jax[tpu]"`) but no TPU; see README.md.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import jax
from ahead_of_time import EXPERIMENTS, command

from fastmim_jax.tools.plan.topology import open_devices, parse_topology

HERE = EXPERIMENTS / "step_tpu"
IMAGES = {  # a chip, of every published base config
    "fastmim:vit_b16": 512,
    "fastmim:swin_b": 256,
    "fastmim:pvt_v2_b2": 256,
    "fastmim:cmt_s": 256,
    "fastmim:convnext_b": 256,
    "mae:vit_b16": 128,
    "mixmim:base": 64,
    "simmim:vit_b16": 64,
    "simmim:swin_b": 64,
    "pr_mim:mae_vit_b16": 128,
    "pr_mim:mixmim_base": 64,
}


def main() -> None:
    parser = command.make_parser(__doc__.splitlines()[0], HERE / "results.jsonl")
    parser.add_argument("--topology", default="v5e:2x4", help="generation and chips of the slice")
    parser.add_argument(
        "--effort", default="O1", help="of the compiler: O0 to O3, or UNKNOWN (the default)"
    )
    args = parser.parse_intermixed_args()
    jax.config.update("jax_optimization_level", args.effort)

    def devices() -> list:
        return open_devices(parse_topology(args.topology))

    command.run(args, f"{args.topology} {args.effort}", devices, IMAGES, {})


if __name__ == "__main__":
    main()
