"""Plot results.jsonl of compare.py: a dot per seed, a bar for the mean.

python experiments/transfer/plot.py experiments/transfer/results.jsonl experiments/transfer/accuracy.png
"""

import sys

import numpy as np
from matplotlib.figure import Figure

from fastmim_jax.io import read_json_lines

NAMES = {
    "none": "no pre-training",
    "fastmim_hog": "FastMIM (HOG)",
    "fastmim_pixel": "FastMIM (pixels)",
    "mae": "MAE",
    "pr_mim": "PR-MIM",
    "pyramid_none": "no pre-training\n(pyramid)",
    "pyramid_fastmim_hog": "FastMIM (HOG)\n(pyramid)",
    "mixmim": "MixMIM\n(pyramid)",
}
FIGURES = {"tuned": "fine-tuned with 5,000 labels", "probe": "ridge probe of frozen features, best layer"}


def main(results, path):
    lines = read_json_lines(results).records
    names = [name for name in NAMES if any(line["name"] == name for line in lines)]
    figure = Figure((9.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for shift, (key, label) in zip((-0.2, 0.2), FIGURES.items(), strict=True):
        color = {"tuned": "#3b6ea8", "probe": "#d9a441"}[key]
        for position, name in enumerate(names):
            accuracies = [100 * line[key] for line in lines if line["name"] == name and key in line]
            if accuracies:
                axes.bar(
                    position + shift,
                    np.mean(accuracies),
                    0.36,
                    color=color,
                    label=label if position == 1 else None,
                )
                axes.plot([position + shift] * len(accuracies), accuracies, "o", color="black", ms=3.5)
    axes.set_xticks(range(len(names)), [NAMES[name] for name in names], fontsize=9)
    axes.set(ylabel="CIFAR-10 test accuracy, %", ylim=(0, 55))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
