"""The tables of the experiments say what their logs say."""

import importlib
import math
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def tables():
    """The module experiments/tables/registry.py."""
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        yield importlib.import_module("tables.registry")
    finally:
        sys.path.remove(str(EXPERIMENTS))
        for name in [name for name in sys.modules if name.split(".")[0] == "tables"]:
            del sys.modules[name]


def test_every_table_is_that_of_its_log(tables):
    stale = [
        f"{table.folder}: {table.name}"
        for table in tables.TABLES
        if table.render() != (EXPERIMENTS / table.folder / "README.md").read_text()
    ]
    assert not stale, "type python experiments/make_tables.py"


def test_another_log_gives_another_table(tables):
    (table,) = (table for table in tables.TABLES if table.folder == "transfer")
    lines = [dict(line) for line in table.lines]
    lines[0]["tuned"] += 0.01
    assert table.make(lines) != table.make(table.lines)


def test_a_difference_is_told_by_its_standard_error(tables):
    ours, other = tables.summarize([0.40, 0.42, 0.44]), tables.summarize([0.30, 0.30, 0.33])
    gain = tables.difference(ours, other)
    assert math.isclose(gain.points, 11.0)
    # Standard errors 2 / sqrt(3) and sqrt(3) / sqrt(3).
    assert math.isclose(gain.error, math.sqrt(4 / 3 + 1))
    assert gain.verdict == "better" and tables.difference(other, ours).verdict == "worse"
    assert tables.difference(ours, ours).verdict == "no measurable difference"
    assert "no verdict" in tables.difference(tables.summarize([0.4]), other).verdict


def test_every_claim_with_a_log_has_a_verdict(tables):
    verdicts = importlib.import_module("tables.verdicts")
    logged = [claim for claim in verdicts.CLAIMS if claim.summaries]
    assert len(logged) >= 9
    rows = verdicts.verdict_table().splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [claim.text for claim in logged]


def searched(gain: float) -> list[dict]:
    """Return a log of two settings of a search, in the first of which PR-MIM is better by a gain."""
    setting = {"throw_ratio": 0.5, "decoder_depth": 1, "of_updates": 40, "updates": 40}
    setting |= {"step_gflops": 0.03, "cpu_seconds": 6.0}
    return [
        {**setting, "kind": kind, "seed": seed, "labels": labels, "accuracy": 0.4 + 0.01 * seed + more}
        for seed in range(3)
        for labels in (100, 2000)
        for kind, more in (("plain", 0.0), ("pr_mim", gain * (labels == 100)))
    ]


def test_a_search_counts_the_settings_that_differ(tables):
    partial = importlib.import_module("tables.partial")
    table = partial.search(searched(0.1))
    assert "Of 2 settings PR-MIM is better in 1 and worse in 0" in table
    # Two-sided share of Student's t with 4 degrees of freedom beyond 2 is 0.116.
    assert "By chance 0.2 would differ" in table
    assert "+5.00 points (standard error 0.00)" in table and "in 3 pairs" in table
    assert "better in 0 and worse in 1" in partial.search(searched(-0.1))
    # Of a method without its rival there is no row.
    assert "better in 0" in partial.search([x for x in searched(0.1) if x["labels"] == 2000])
    assert "1 CPU minutes" in partial.search_cost(searched(0.1))


def test_claims_of_equal_time_are_against_longer_fine_tuning(tables):
    lines = [
        {
            "group": "main",
            "by": "time",
            "size": "tiny",
            "name": name,
            "seed": seed,
            "updates": 9,
            "tuned": tuned,
        }
        for seed in range(2)
        for name, tuned in (("scratch", 0.1), ("scratch_longer", 0.3 + 0.01 * seed), ("mae", 0.3))
    ]
    rows = tables.claims("main", "time", "tiny")(lines).splitlines()
    assert "no measurable difference" in next(row for row in rows if "`mae`" in row)
