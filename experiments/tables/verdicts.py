"""The claims of the papers, each with our difference of accuracies and its verdict, from the logs."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastmim_jax.io import read_json_lines
from tables.markdown import Lines, markdown
from tables.registry import EXPERIMENTS
from tables.statistics import Difference, Summary, difference, of_arms

TRANSFER = "CIFAR-10, a ViT 96 wide, 500 updates of 256 images, 5,000 labels, 2 CPU cores"
PYRAMID = "CIFAR-10, a pyramid 32 wide, 250 updates of 256 images, 5,000 labels, 2 CPU cores"
PARTIAL = (
    "CIFAR-10, a ViT 128 wide, 300 updates of 256 images, 20,000 labels of a linear probe, 2 CPU cores"
)
PHOTOS = "3,000 photos, `configs/own.py:tiny`, 60 epochs, 8 of fine-tuning, 2 CPU cores"


class Claim(NamedTuple):
    """A claim that two arms of a log decide.

    Attributes:
      text, paper: the claim, and the number that its paper gives for it.
      folder, log: of the experiment, under experiments/.
      key: the accuracy in the log.
      arm, other: names in the log; the claim is about arm minus other.
      budget: data, model, updates, machine.
    """

    text: str
    paper: str
    folder: str
    log: str
    key: str
    arm: str
    other: str
    budget: str

    @property
    def summaries(self) -> tuple[Summary, Summary] | None:
        """Return the accuracies of both arms, or None where the log lacks one."""
        path = EXPERIMENTS / self.folder / self.log
        lines: Lines = read_json_lines(path).records if path.exists() else []
        found = of_arms(lines, self.key)
        return (found[self.arm], found[self.other]) if {self.arm, self.other} <= {*found} else None

    @property
    def difference(self) -> Difference | None:
        """Return arm minus other, or None where the log lacks one."""
        return difference(*self.summaries) if self.summaries else None


def _tuned(text: str, paper: str, arm: str, other: str, budget: str) -> Claim:
    return Claim(text, paper, "transfer", "results.jsonl", "tuned", arm, other, budget)


def _probed(text: str, paper: str, arm: str, other: str) -> Claim:
    return Claim(
        text, paper, "partial_reconstruction", "measured_quality.jsonl", "accuracy", arm, other, PARTIAL
    )


CLAIMS: Sequence[Claim] = (
    _tuned(
        "FastMIM on HOG beats training from scratch",
        "ViT-B 83.8 %, 800 epochs",
        "fastmim_hog",
        "none",
        TRANSFER,
    ),
    _tuned("MAE beats training from scratch", "ViT-B 83.6 %, 1,600 epochs", "mae", "none", TRANSFER),
    _tuned("PR-MIM beats training from scratch", "as good as MAE", "pr_mim", "none", TRANSFER),
    _tuned("PR-MIM is as good as MAE", "as good as MAE", "pr_mim", "mae", TRANSFER),
    _tuned("HOG beats pixels", "HOG above pixels", "fastmim_hog", "fastmim_pixel", TRANSFER),
    _tuned(
        "MixMIM beats training from scratch",
        "MixMIM-B 85.1 %, 600 epochs",
        "mixmim",
        "pyramid_none",
        PYRAMID,
    ),
    _tuned(
        "FastMIM on HOG beats training from scratch on a pyramid",
        "Swin-B 84.1 %, 400 epochs",
        "pyramid_fastmim_hog",
        "pyramid_none",
        PYRAMID,
    ),
    _probed(
        "Filling in beats plain partial reconstruction", "better than plain partial", "pr_mim", "plain"
    ),
    _probed("PR-MIM probes as well as MAE", "as good as MAE", "pr_mim", "mae"),
    Claim(
        "Pre-training on one's own photos beats training from scratch, fine-tuned",
        "none",
        *("own_data", "results.jsonl", "tuned", "mae", "scratch"),
        PHOTOS,
    ),
    Claim(
        "Pre-training on one's own photos beats the first weights, frozen",
        "none",
        *("own_data", "results.jsonl", "probe", "mae", "scratch"),
        PHOTOS,
    ),
)


def verdict_table() -> str:
    """Return the Markdown table of all claims that have a log."""
    return markdown(
        (
            "claim",
            "paper",
            "ours",
            "against",
            "difference",
            "verdict",
            "seeds",
            "budget",
            "command and log",
        ),
        [row for claim in CLAIMS for row in _rows(claim)],
    )


def _rows(claim: Claim) -> Iterator[list[str]]:
    if claim.summaries and claim.difference:
        ours, other = claim.summaries
        yield [
            *(claim.text, claim.paper, str(ours), str(other), str(claim.difference)),
            *(claim.difference.verdict, str(ours.n), claim.budget, f"`experiments/{claim.folder}`"),
        ]
