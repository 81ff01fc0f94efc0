"""The tables of experiments/partial_reconstruction."""

from collections.abc import Iterator, Mapping
from typing import Any

from scipy import stats

from tables.markdown import Lines, markdown
from tables.statistics import Difference, Summary, difference, of_arms, summarize

KINDS = {"mae": "MAE", "pr_mim": "PR-MIM", "plain": "plain partial"}
VARIANTS = {
    "mae": ("MAE", "48, 0"),
    "pr_mim": ("PR-MIM (`throw_ratio=0.5`)", "16, 32"),
    "plain": ('plain partial (`sampler="random"`, `fill="none"`)', "16, 32"),
}
SETTING = ("throw_ratio", "decoder_depth", "of_updates", "updates", "labels")
COSTS = (  # label, key, unit, digits
    ("forward, matrix products of the jaxpr, GFLOPs an image", "forward_flops", 1e9, 2),
    ("training step, matrix products of the jaxpr, GFLOPs an image", "step_flops", 1e9, 2),
    ("training step, XLA for CPU, GFLOPs an image", "cpu_flops", 1e9, 2),
    ("temporaries, XLA for CPU, batch 8, GB", "cpu_temporary_bytes", 1e9, 3),
    ("training step, XLA for TPU v5e, GFLOPs an image", "tpu_flops", 1e9, 2),
    ("arguments a chip, GB", "tpu_argument_bytes", 1e9, 3),
    ("temporaries a chip, GB", "tpu_temporary_bytes", 1e9, 3),
    ("**peak memory a chip, GB**", "tpu_peak_bytes", 1e9, 3),
    ("sequential steps of the sampling loop", "sampling_steps", 1, 0),
)


def quality(lines: Lines) -> str:
    """Return the table of three methods at one setting, with its verdict."""
    found = of_arms(lines, "accuracy")
    seeds = sorted({line["seed"] for line in lines})
    rows = []
    for name, (label, tokens) in VARIANTS.items():
        of_seed = {line["seed"]: line["accuracy"] for line in lines if line["name"] == name}
        rows.append([label, tokens, *(f"{100 * of_seed[seed]:.1f} %" for seed in seeds), str(found[name])])
    head = ("", "decoded, thrown of 48 hidden", *(f"seed {seed}" for seed in seeds), "mean and spread")
    sentences = [
        f"{KINDS['pr_mim']} against {KINDS[other]}: {gain}: {gain.verdict}."
        for other in ("plain", "mae")
        for gain in [difference(found["pr_mim"], found[other])]
    ]
    return "\n".join([markdown(head, rows), "", *sentences])


Gains = dict[tuple, tuple[Summary, Summary, Difference]]  # by setting: PR-MIM, plain, the difference


def setting_gains(lines: Lines) -> Gains:
    """Return the accuracies and their difference in every setting, of the seeds that both methods have."""
    gains: Gains = {}
    for setting in sorted({tuple(line[key] for key in SETTING) for line in lines}):
        by_kind = _by_kind([line for line in lines if tuple(line[key] for key in SETTING) == setting])
        if not {"pr_mim", "plain"} <= {*by_kind}:
            continue
        seeds = sorted({*by_kind["pr_mim"]} & {*by_kind["plain"]})
        ours, other = (summarize([by_kind[kind][seed] for seed in seeds]) for kind in ("pr_mim", "plain"))
        gains[setting] = ours, other, difference(ours, other)
    return gains


def better_and_worse(gains: Gains) -> tuple[int, int]:
    """Return in how many settings PR-MIM is better, and worse, by the verdict."""
    verdicts = [gain.verdict for _, _, gain in gains.values()]
    return verdicts.count("better"), verdicts.count("worse")


def search(lines: Lines) -> str:
    """Return a row for every setting that both methods have, and the verdict over all."""
    if not lines:
        return "Not run yet."
    gains = setting_gains(lines)
    rows = [
        [*(f"{x:,}" for x in setting), str(ours), str(other), str(gain), gain.verdict, str(ours.n)]
        for setting, (ours, other, gain) in gains.items()
    ]
    head = (
        "thrown",
        "decoder blocks",
        "length",
        "updates",
        "labels",
        "PR-MIM",
        "plain partial",
        "difference",
    )
    return "\n".join([markdown((*head, "verdict", "seeds"), rows), "", *_search_verdict(gains, lines)])


def _by_kind(lines: Lines) -> dict[str, dict[int, float]]:
    """Return {kind: {seed: accuracy}}."""
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        found.setdefault(line["kind"], {})[line["seed"]] = line["accuracy"]
    return found


def _search_verdict(gains: Gains, lines: Lines) -> Iterator[str]:
    """Yield sentences: how many settings differ, how many would by chance, and the mean difference."""
    better, worse = better_and_worse(gains)
    yield (
        f"Of {len(gains)} settings PR-MIM is better in {better} and worse in {worse} by more than twice "
        "the pooled standard error."
    )
    chance = sum(2 * stats.t.sf(2, 2 * ours.n - 2) for ours, _, _ in gains.values() if ours.n > 1)
    yield f"By chance {chance:.1f} would differ as much if no setting did."
    for ratio in sorted({setting[0] for setting in gains}):
        pairs = summarize(_paired(lines, ratio))
        yield (
            f"Thrown {ratio:g}: PR-MIM is {pairs.mean:+.2f} points (standard error {pairs.error:.2f}) "
            f"above plain partial in {pairs.n} pairs of pre-trainings, means over checkpoints and labels."
        )


def _paired(lines: Lines, ratio: float) -> list[float]:
    """Return PR-MIM minus plain of every pair of pre-trainings of a throw ratio, as shares."""
    found: dict[tuple, dict[str, list[float]]] = {}
    for line in lines:
        if line["throw_ratio"] == ratio:
            pair = found.setdefault(tuple(line[key] for key in ("decoder_depth", "of_updates", "seed")), {})
            pair.setdefault(line["kind"], []).append(line["accuracy"])
    return [
        sum(pair["pr_mim"]) / len(pair["pr_mim"]) - sum(pair["plain"]) / len(pair["plain"])
        for pair in found.values()
        if {"pr_mim", "plain"} <= {*pair}
    ]


def search_cost(lines: Lines) -> str:
    """Return the cost of every pre-training of the search."""
    if not lines:
        return "Not run yet."
    keys = ("throw_ratio", "decoder_depth", "of_updates", "kind")
    rows, total = [], 0.0
    for arm in sorted({tuple(line[key] for key in keys) for line in lines}):
        own = [line for line in lines if tuple(line[key] for key in keys) == arm]
        seconds = [*{x["seed"]: x["cpu_seconds"] for x in own if x["updates"] == x["of_updates"]}.values()]
        total += sum(seconds)
        *numbers, kind = arm
        flops, spread = f"{1000 * own[0]['step_gflops']:.1f}", f"{min(seconds):.0f} to {max(seconds):.0f}"
        rows.append([KINDS[kind], *(f"{x:,}" for x in numbers), flops, spread, str(len(seconds))])
    costs = ("step, MFLOPs an image", "CPU seconds a pre-training", "seeds")
    table = markdown(("", "thrown", "decoder blocks", "updates", *costs), rows)
    return f"{table}\n\n{total / 60:.0f} CPU minutes of pre-training in all."


def cost(measured: Mapping[str, Any]) -> str:
    """Return the figures of cost.py, a column for each ratio."""
    first, *_ = results = measured["results"]
    rows = []
    for label, key, unit, digits in COSTS:
        if key in first:
            rows.append([label, *(_cell(first, result, key, unit, digits) for result in results)])
    table = markdown(("", *(f"throw_ratio {result['throw_ratio']:g}" for result in results)), rows)
    return f"{table}\n\nWith half of the tokens thrown: {cost_at_half(measured)}."


def cost_at_half(measured: Mapping[str, Any]) -> str:
    """Return the savings with half of the tokens thrown, in words."""
    first, *_ = results = measured["results"]
    (half,) = (result for result in results if result["throw_ratio"] == 0.5)
    flops = sorted(saving(first, half, key) for key in ("step_flops", "cpu_flops", "tpu_flops"))
    memory = saving(first, half, "tpu_peak_bytes")
    return f"{flops[0]:.1f} to {flops[-1]:.1f} % fewer FLOPs, {memory:.1f} % less peak memory"


def saving(first: Mapping[str, Any], result: Mapping[str, Any], key: str) -> float:
    """Return the saving of a figure relative to the first result, in percent."""
    return 100 * (1 - result[key] / first[key])


def _cell(first: Mapping[str, Any], result: Mapping[str, Any], key: str, unit: float, digits: int) -> str:
    number = f"{result[key] / unit:.{digits}f}"
    if result is first or not first[key]:
        return number
    return f"{number} ({-saving(first, result, key):+.1f} %)"
