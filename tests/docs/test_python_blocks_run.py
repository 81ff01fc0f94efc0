"""The Python blocks of the documentation's pages run, on tiny models that stand for those they name.

Those of README.md and the notebooks run in tests of their own, with training.
"""
