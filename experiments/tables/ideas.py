"""The table of experiments/ideas."""

from collections.abc import Mapping
from typing import Any

from tables.markdown import markdown

BATCH = 8  # images of the step whose memory is measured


def costs(measured: Mapping[str, Any]) -> str:
    """Return the FLOPs and memory of every idea beside its base method."""
    rows = []
    for name, result in measured.items():
        base, cells = measured[result["base"]], [name]
        for key, unit, digits in (("step_flops", 1e9, 2), ("temporary_bytes", 1e9, 3)):
            if result[key] is None or base[key] is None:
                cells += ["", ""]
            else:
                cells += [f"{result[key] / unit:.{digits}f}", f"{result[key] / base[key]:.3f}"]
        rows.append(cells)
    memory = f"temporaries at batch {BATCH}, GB"
    return markdown(("", "step, GFLOPs an image", "of its base", memory, "of its base"), rows)


def ratios(measured: Mapping[str, Any]) -> str:
    """Return the costs of the ideas of FastMIM's and MAE's size beside MAE's, in words."""
    mae = measured["MAE"]
    flops = {name: result["step_flops"] / mae["step_flops"] for name, result in measured.items()}
    cross, partial = (measured[f"{name}, half thrown"] for name in ("CrossMAE", "PR-MIM"))
    memory = [x["temporary_bytes"] / mae["temporary_bytes"] for x in (cross, partial)]
    return (
        f"FLOPs of the step beside MAE's: ColorMAE {flops['ColorMAE, green']:.2f}, MFF {flops['MFF']:.3f}, "
        f"LocalMIM {flops['LocalMIM, 4 layers']:.2f}, "
        f"CrossMAE {flops['CrossMAE, half thrown']:.2f} and PR-MIM {flops['PR-MIM, half thrown']:.2f} "
        f"with half of the tokens thrown; temporaries of the last two {memory[0]:.2f} and {memory[1]:.2f}"
    )
