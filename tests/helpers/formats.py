"""Names of the key tables of formats."""


def names_of(fmt):
    """All names of a table, with 0 for every index of a block."""
    return [
        f"{rule.theirs}{suffix}".replace("{}", "0")
        for rule in fmt.table
        for suffixes, _, _ in rule.arrays
        for suffix in ((suffixes,) if isinstance(suffixes, str) else suffixes)
    ]
