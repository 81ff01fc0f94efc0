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
