"""The cells of experiments/README.md that logs decide."""

import re
from collections import Counter
from collections.abc import Mapping

from tables.markdown import Lines
from tables.partial import SETTING, better_and_worse, setting_gains
from tables.statistics import of_arms

RANDOM_KILL = re.compile(r"random kills?\b")


def _arms(lines: Lines, key: str, labels: Mapping[str, str]) -> str:
    found = of_arms(lines, key)
    return ", ".join(f"{label} {found[name]}" for name, label in labels.items())


def _seeds(lines: Lines) -> str:
    number = len({line["seed"] for line in lines})
    return f"{number} seed{'s' * (number != 1)}"


def transfer(lines: Lines) -> str:
    """Return the fine-tuned accuracies of experiments/transfer."""
    vit = {"mae": "MAE", "pr_mim": "PR-MIM", "fastmim_pixel": "FastMIM pixels", "fastmim_hog": "HOG"}
    pyramid = {"mixmim": "MixMIM", "pyramid_none": "scratch"}
    texts = (_arms(lines, "tuned", names) for names in ({**vit, "none": "scratch"}, pyramid))
    return f"{'; '.join(texts)}; {_seeds(lines)}"


def longer(lines: Lines) -> str:
    """Return the accuracy of FastMIM on HOG after more updates."""
    (line,) = (line for line in lines if line["name"] == "fastmim_hog")
    return f"HOG after {line['steps']:,} updates {100 * line['tuned']:.1f} %, 1 seed"


def own_data(lines: Lines) -> str:
    """Return the accuracies of experiments/own_data."""
    tuned = _arms(lines, "tuned", {"mae": "fine-tuned", "scratch": "from scratch"})
    probed = _arms(
        lines, "probe", {"mae": "ridge probe of frozen features", "scratch": "of the first weights"}
    )
    return f"{tuned}; {probed}; {_seeds(lines)}"


def quality(lines: Lines) -> str:
    """Return the accuracies of PR-MIM and its rivals."""
    labels = {"pr_mim": "linear probe", "plain": "plain partial", "mae": "MAE"}
    return f"{_arms(lines, 'accuracy', labels)}; {_seeds(lines)}"


def search(lines: Lines) -> str:
    """Return in how many settings PR-MIM and plain partial reconstruction differ."""
    if not lines:
        return "not run yet"
    gains = setting_gains(lines)
    better, worse = better_and_worse(gains)
    return f"of {len(gains)} settings ({', '.join(SETTING)}) better in {better}, worse in {worse}"


def pod(lines: Lines) -> str:
    """Return how many tries of stopped runs held, and how many each mode had."""
    tries = Counter(line["mode"] for line in lines)
    held = sum(line["held"] for line in lines)
    return (
        f"{held} of {len(lines)} tries held, {min(tries.values())} to {max(tries.values())} of each of "
        f"{len(tries)} modes"
    )


def faults(lines: Lines) -> str:
    """Return how many kinds of faults held in all tries."""
    kinds: dict[str, list[bool]] = {}
    for line in lines:
        kinds.setdefault(line["fault"], []).append(line["held"])
    kills = [x for name in [*kinds] if RANDOM_KILL.match(name) for x in kinds.pop(name)]
    most = max(len(tries) for tries in kinds.values())
    return (
        f"{sum(map(all, kinds.values()))} of {len(kinds)} kinds held, up to {most} tries each, and "
        f"{sum(kills)} of {len(kills)} random kills"
    )
