"""Lines for the user: the facts of a prepared or scanned data set."""

from collections.abc import Iterator, Mapping

from fastmim_jax.data.records.manifest import SplitFacts, Spread
from fastmim_jax.paths import to_text
from fastmim_jax.tools.prepare.settings import Settings

_SHOWN = 5  # unreadable files and classes that are listed


def summary_lines(splits: Mapping[str, SplitFacts], settings: Settings) -> Iterator[str]:
    """Yield the facts of every split, and the flags of the statistics of the first one."""
    for name, facts in splits.items():
        yield f"{name}: {_contents(facts)}"
        yield f"  height {_spread(facts.height)}, width {_spread(facts.width)} pixels"
        yield f"  values from {_numbers(facts.lowest, 4)} to {_numbers(facts.highest, 4)} per channel"
        yield from _range_lines(facts, settings)
        if facts.copied:
            stored = ": stored as the files that they are" if facts.shards else ""
            yield f"  no need to shrink {_count(facts.copied, 'JPEG file')}{stored}"
        yield from _unreadable_lines(facts)
    yield from _class_lines(splits)
    first, facts = next(iter(splits.items()))
    mean, std = (tuple(float(f"{value:.3g}") for value in values) for values in (facts.mean, facts.std))
    yield (
        f"mean and standard deviation of {first}, instead of ImageNet's: "
        f'--config.data.mean="{mean}" --config.data.std="{std}"'
    )


def _contents(facts: SplitFacts) -> str:
    classes = (
        f", {len(facts.classes):,} class{'' if len(facts.classes) == 1 else 'es'}" if facts.classes else ""
    )
    unlabelled = f", {facts.unlabelled:,} without a label" if facts.classes and facts.unlabelled else ""
    written = sum(shard.bytes for shard in facts.shards)
    size = f", {written / 2**20:,.1f} MiB in {_count(len(facts.shards), 'shard')}" if written else ""
    each = f", {written / 1024 / facts.records:,.1f} KiB an image" if written else ""
    return f"{_count(facts.records, 'image')}{classes}{unlabelled}{size}{each}"


def _range_lines(facts: SplitFacts, settings: Settings) -> Iterator[str]:
    low, high = settings.value_range
    if min(facts.lowest) < low or max(facts.highest) > high:
        yield (
            f"  values outside of --value_range={low:g},{high:g} are stored, but become black or white "
            "when they are read"
        )


def _unreadable_lines(facts: SplitFacts) -> Iterator[str]:
    if not facts.unreadable:
        return
    total = facts.records + len(facts.unreadable)
    yield f"  {len(facts.unreadable):,} of {total:,} files cannot be read and are left out:"
    for item in facts.unreadable[:_SHOWN]:
        yield f"    {to_text(item.name)}: {item.reason}"
    if len(facts.unreadable) > _SHOWN:
        yield f"    and {len(facts.unreadable) - _SHOWN:,} more, all of them in manifest.json"
    empty = [name for name, number in facts.records_per_class.items() if not number]
    if empty:
        shown = ", ".join(empty[:_SHOWN]) + (", ..." if len(empty) > _SHOWN else "")
        yield f"  no image of {_count(len(empty), 'class', 'classes')} can be read: {shown}"


def _class_lines(splits: Mapping[str, SplitFacts]) -> Iterator[str]:
    """Yield a line for every split whose classes are not those of the first."""
    first, *others = splits
    for name in others:
        differing = sorted({*splits[first].classes} ^ {*splits[name].classes})
        if differing:
            shown = ", ".join(differing[:_SHOWN]) + (", ..." if len(differing) > _SHOWN else "")
            yield f"the classes of {first} and {name} differ: only one of them has {shown}"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _spread(values: Spread) -> str:
    if values.min == values.max:
        return f"{values.min:,}"
    return f"{values.min:,} to {values.max:,} (median {values.median:g})"


def _numbers(values: tuple[float, ...], digits: int) -> str:
    return ", ".join(f"{value:.{digits}g}" for value in values)
