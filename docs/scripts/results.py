"""The page of results, from the logs of the experiments."""

import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
INTRO = """# Results

What our own logs say about the claims of the papers, at sizes that a laptop trains in minutes.
Accuracies are the mean over the seeds and their spread. A difference counts where it is more than twice
the pooled standard error of its seeds; with three seeds that is a low bar. Numbers of papers are for
large models, long schedules and ImageNet, and do not compare with ours. The folder of each experiment
has its command, its log and what was varied.

"""
MORE = """

Speed, memory and cost on accelerators: `experiments/README.md` in the repository has a row per claim.

`fastmim compare runs/mine --with=experiments/quickstart` draws the
curve of a run of your own beside a logged one.
"""


def page() -> str:
    """Return the page as Markdown."""
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        from tables.verdicts import verdict_table
    finally:
        sys.path.remove(str(EXPERIMENTS))
    return INTRO + verdict_table() + MORE
