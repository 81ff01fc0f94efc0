"""The flags of all commands, and what they are parsed into."""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from fastmim_jax.errors import UserError


def parse(name, summary, wanted, argv, words=False):
    """Command-line words -> absl flag values.

    Args:
      name, summary: of the command, for its --help. wanted: names of its flags.
      words: whether it is given paths without a flag, too, which then are `values.words`.

    Raises:
      UserError: anything that absl or ml_collections cannot take.
    """
    argv = [_found_config(word) for word in argv]
    values = _flags([name, *argv])
    if "--help" in argv:
        lines = [f"  --{flag}: {values[flag].help}" for flag in wanted]
        print("\n".join([f"fastmim {name}: {summary}", *lines]))
        sys.exit(0)
    try:
        rest = values([f"fastmim {name}", *argv])[1:]
        values.config  # noqa: B018 - a config that failed to load raises here
    except UserError:
        raise
    except AttributeError as error:
        raise UserError(_unknown_key(error)) from error
    except (flags.Error, OSError, ValueError, TypeError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = lines[-1] if isinstance(error, OSError) else lines[0]
        raise UserError(f"{told} (see `fastmim {name} --help`)") from error
    if rest and not words:
        raise UserError(f"'{rest[0]}' is not a flag: flags look like --workdir=DIR")
    values["words"].value = rest
    given = {word.lstrip("-").split("=")[0].split(".")[0] for word in argv if word.startswith("-")}
    foreign = [flag for flag in given if flag.removeprefix("no") not in wanted and flag not in wanted]
    if foreign:
        raise UserError(f"fastmim {name} takes no --{foreign[0]}: it takes --{', --'.join(wanted)}")
    return values


def _flags(argv):
    """The flags of all commands, unparsed; --config.KEY flags are made from what `argv` holds."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "a config file, with :VARIANT", flag_values=values, sys_argv=argv
    )
    for flag, help_text in (
        ("workdir", "folder of the run, made if missing"),
        ("images", "folder, data set or image to take instead of the run's own"),
        ("test", "labelled folder or data set to test on; the val or test split of --images if not given"),
        ("split", "of --images; val, test or train, whichever there is first, if not given"),
        ("out", "file to write"),
        ("format", "of the source: a name such as mae_vit or timm_swin; found out if not given"),
        ("key", "of a file's entries the one with the arrays, such as model_ema"),
        ("to", "official, timm, hf, torchvision, mmpretrain, mmdet, mmseg, stablehlo or onnx"),
        ("show_batch", "PNG to draw a training batch into, as the network sees it"),
    ):
        flags.DEFINE_string(flag, None, help_text, flag_values=values)
    for flag, default, help_text in (
        ("kinds", ["ridge", "knn"], "probes: some of ridge, knn, linear, attentive"),
        ("image_size", [], "side in pixels, or height and width, to resample positions to"),
        ("words", [], "paths without a flag"),
        ("layers", [], 'layers to write, such as "block 12 mean"; the last if not given'),
    ):
        flags.DEFINE_list(flag, default, help_text, flag_values=values)
    for flag, help_text, least in (
        ("count", "how many images at most: 6 to draw, 20,000 to probe if not given", 1),
        ("folds", "of cross-validation; 0: none where there is something to test on, else 5", 0),
        ("step", "which checkpoint; the best or newest if not given", 0),
    ):
        default = 0 if flag == "folds" else None
        flags.DEFINE_integer(flag, default, help_text, lower_bound=least, flag_values=values)
    for flag, help_text in (
        ("distributed", "several processes: let JAX find the others"),
        ("encoder_only", "leave out the decoder or head"),
        (
            "partial",
            "go on where arrays are missing, which then start fresh, or unknown, which are left out",
        ),
        ("overwrite", "replace what is at the destination"),
    ):
        flags.DEFINE_bool(flag, False, help_text, flag_values=values)
    flags.DEFINE_multi_string(
        "set",
        [],
        "KEY=VALUE of the config that arrays do not tell, such as method.backbone.heads=6",
        flag_values=values,
    )
    return values


def _found_config(word):
    """--config=configs/X.py, also where the working directory has no such folder."""
    flag, _, path = word.partition("=")
    if flag.lstrip("-") != "config" or not path:
        return word
    file, _, variant = path.partition(":")
    package = Path(__file__).parent
    places = [Path(file), package.parent / file, package / file]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        known = sorted(place.name for place in (package.parent / "configs").glob("*.py"))
        raise UserError(
            f"there is no config file {file}: expected --config=configs/NAME.py[:VARIANT], such as "
            + ", ".join(known)
        )
    return f"{flag}={found}" + (f":{variant}" if variant else "")


def _unknown_key(error):
    text = str(error).strip("\"'").replace("\\n", "\n").replace("\\'", "'")
    key, *hint = [line.strip("'\" ") for line in text.splitlines()]
    return f"the config has no key '{key}'; " + (
        hint[0][0].lower() + hint[0][1:] if hint else "its keys are in fastmim_jax/config.py"
    )
