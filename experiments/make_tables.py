"""Write every table of the experiments' READMEs again from its log.

python experiments/make_tables.py
"""

from tables.registry import EXPERIMENTS, TABLES


def main() -> None:
    for table in TABLES:
        (EXPERIMENTS / table.folder / "README.md").write_text(table.render())


if __name__ == "__main__":
    main()
