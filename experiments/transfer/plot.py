"""Plot results.jsonl of compare.py: a dot per seed, a bar for the mean.

python experiments/transfer/plot.py experiments/transfer/results.jsonl experiments/transfer/accuracy.png
"""

import sys

import numpy as np

from fastmim_jax.draw.pages import save_figure
from fastmim_jax.draw.style import (
    AMBER,
    BLUE,
    CAPTION_FONT,
    INK,
    css,
    make_figure,
    points,
    write_legend,
    write_titles,
)
from fastmim_jax.io import read_json_lines

NAMES = {
    "none": "no pre-\ntraining",
    "fastmim_hog": "FastMIM\n(HOG)",
    "fastmim_pixel": "FastMIM\n(pixels)",
    "mae": "MAE",
    "pr_mim": "PR-MIM",
    "pyramid_none": "no pre-\ntraining\n(pyramid)",
    "pyramid_fastmim_hog": "FastMIM\n(HOG)\n(pyramid)",
    "mixmim": "MixMIM\n(pyramid)",
}
FIGURES = {
    "tuned": ("fine-tuned with 5,000 labels", BLUE),
    "probe": ("ridge probe of frozen features, best layer", AMBER),
}


def main(results, path):
    lines = read_json_lines(results).records
    names = [name for name in NAMES if any(line["name"] == name for line in lines)]
    figure, axes = make_figure(1152, 576)
    for shift, (key, (label, colour)) in zip((-0.2, 0.2), FIGURES.items(), strict=True):
        for position, name in enumerate(names):
            accuracies = [100 * line[key] for line in lines if line["name"] == name and key in line]
            if accuracies:
                named = label if position == 1 else None
                axes.bar(position + shift, np.mean(accuracies), 0.36, color=css(colour), label=named)
                seeds = [position + shift] * len(accuracies)
                edge = dict(markeredgecolor="black", markeredgewidth=0.7)
                axes.plot(seeds, accuracies, "o", color=css(INK), markersize=4.5, **edge)
    axes.set_xticks(range(len(names)), [NAMES[name] for name in names], fontsize=points(CAPTION_FONT))
    axes.set(ylim=(0, 55))
    write_titles(axes, "Accuracy on CIFAR-10 test images; a dot for every seed", y="accuracy, %")
    write_legend(axes, loc="upper left", ncols=2)
    save_figure(figure, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
