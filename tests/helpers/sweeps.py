"""Sweeps over cases of which `make quick` or `make test` run some, and `make test-all` all."""

import pytest


def sweep(cases, kept, mark=pytest.mark.exhaustive):
    """Return the cases for `pytest.mark.parametrize`; all but the kept ones get a mark.

    Args:
      cases: values of one argument, or tuples of several.
      kept: those that cover every kind between them.
      mark: of the others.
    """
    cases, kept = list(cases), list(kept)
    unknown = [case for case in kept if case not in cases]
    assert kept and not unknown, f"no such case: {unknown}"
    return [case if case in kept else pytest.param(*_values(case), marks=mark) for case in cases]


def thin(cases, step):
    """Return the cases for `pytest.mark.parametrize`; all but every `step`-th are slow together."""
    cases = list(cases)
    return sweep(cases, cases[::step], pytest.mark.slow)


def _values(case):
    return case if type(case) is tuple else (case,)  # a NamedTuple is one value
