"""The config keys: their meanings, read from comments of the code, and what a mistyped one means."""

import ast
import difflib
import io
import tokenize
from collections.abc import Iterable
from functools import cache
from pathlib import Path

# Function of the configs' files -> the section that it returns, for pre-training and for the others.
_SECTIONS = {
    "data_section": ("data", "data"),
    "_masked_data_section": ("", "data"),
    "backbone_section": ("method.backbone", "model.backbone"),
    "compute_section": ("method", "model"),
    "optimizer_section": ("optimizer", "optimizer"),
    "schedule_section": ("schedule", "schedule"),
    "run_section": ("run", "run"),
}
# Kind of training -> its file and function, and the column of _SECTIONS.
_KINDS = {
    "pretrain": ("config.py", "pretrain_config", 0),
    "finetune": ("config.py", "finetune_config", 1),
    "segment": ("segment_config.py", "segment_config", 1),
}

# Words that users try, and the keys that they mean.
SYNONYMS = {
    "lr": "optimizer.base_lr",
    "learning_rate": "optimizer.base_lr",
    "blr": "optimizer.base_lr",
    "wd": "optimizer.weight_decay",
    "batch": "schedule.batch_size",
    "bs": "schedule.batch_size",
    "num_epochs": "schedule.epochs",
    "max_epochs": "schedule.epochs",
    "max_steps": "schedule.steps",
    "warmup": "schedule.warmup_epochs",
    "resolution": "data.image_size",
    "img_size": "data.image_size",
    "input_size": "data.image_size",
    "data_path": "data.path",
    "dataset": "data.path",
    "num_workers": "run.workers",
    "accum_iter": "schedule.accumulation",
    "model": "method.backbone.name",
    "backbone": "method.backbone.name",
    "arch": "method.backbone.name",
    "patch": "method.backbone.patch_size",
    "clip_grad": "optimizer.clip_norm",
    "nb_classes": "model.classes",
    "num_classes": "model.classes",
    "resume": "init",
    "pretrained": "init",
    "save_every": "run.checkpoint_every",
}


@cache
def key_meanings(kind: str = "pretrain") -> dict[str, str]:
    """Return {key: meaning} of a kind of training, see `saved_config.kind_of`."""
    file, name, column = _KINDS[kind]
    found: dict[str, str] = {}
    for source in dict.fromkeys(("config.py", file)):
        text = Path(__file__).with_name(source).read_text()
        comments = _comments(text)
        body = ast.parse(text).body
        functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
        for function, prefixes in {name: ("", ""), **_SECTIONS}.items():
            for key, node in _assignments(functions[function]) if function in functions else ():
                prefix = prefixes[column]
                full = f"{prefix}.{key}" if prefix else key
                found[full] = _meaning(node, comments) or found.get(full, "")
        for key in _removed(body):
            found.pop(f"data.{key}", None)
    return found


def _removed(body: list[ast.stmt]) -> tuple[str, ...]:
    """Return the keys of the images that a kind of training lacks: WITHOUT of its file."""
    named = [
        node for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "WITHOUT"
    ]
    return ast.literal_eval(named[0].value) if named else ()


def suggest_key(name: str, keys: Iterable[str]) -> str | None:
    """Return the key that a mistyped one most likely means; None if none is near."""
    keys, last = list(keys), name.rpartition(".")[2]
    meant = SYNONYMS.get(last.lower().replace("-", "_"))
    if meant in keys:
        return meant
    by_last: dict[str, str] = {}
    for key in sorted(keys, key=lambda key: not key.startswith("schedule.")):
        by_last.setdefault(key.rpartition(".")[2], key)
    whole = name.replace(".", "_")
    for word, table in (
        (whole, by_last),
        (last, by_last),
        (name, {key: key for key in keys}),
        (last.replace("-", "_").lower(), by_last),
        (last.replace("_", ""), {word.replace("_", ""): key for word, key in by_last.items()}),
    ):
        near = difflib.get_close_matches(word, table, n=1, cutoff=0.75)
        if near:
            return table[near[0]]
    return None


def _assignments(function: ast.FunctionDef) -> list[tuple[str, ast.Assign]]:
    """Return ("section.key", statement) of all values that a function assigns in a config."""
    found = []
    for node in function.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            _, _, key = ast.unparse(node.targets[0]).partition(".")
            value = ast.unparse(node.value)
            if value != "ConfigDict()" and value.partition("(")[0] not in _SECTIONS:
                found.append((key, node))
    return found


def _comments(source: str) -> dict[int, tuple[str, bool]]:
    """Return {line: (text of its comment, whether the line has nothing else)}."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            found[token.start[0]] = token.string.lstrip("# "), alone
    return found


def _meaning(node: ast.Assign, comments: dict[int, tuple[str, bool]]) -> str:
    above: list[str] = []
    line = node.lineno - 1
    while comments.get(line, ("", False))[1]:
        above.insert(0, comments[line][0])
        line -= 1
    beside = [
        comments[at][0] for at in range(node.lineno, (node.end_lineno or node.lineno) + 1) if at in comments
    ]
    return "; ".join(part for part in (" ".join(above).rstrip("."), " ".join(beside)) if part)
