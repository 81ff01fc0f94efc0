"""The claims of masked image modeling on one's own machine: one command, as long as there is time.

    python experiments/claims/run.py --data=DIR --out=DIR --minutes=90
    python experiments/claims/run.py --data=DIR --out=DIR --minutes=9 --size=small --seeds=0

DIR of the data has labelled images with a train and a val or test split: a folder, or what else
`fastmim_jax` opens. The speed of every arm is measured first, and the updates follow from it and from
--minutes (budget.py): as many for every arm with --by=updates, or for as many seconds with --by=time. A
line of OUT/results.jsonl is one arm and seed. The same command goes on where it was stopped, and leaves out
what is done; no run is begun after the time.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from arms import SIZES, Arm, Size, groups
from budget import Speed, Updates, share_out

import fastmim_jax
from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.io import append_json_line, read_json, read_json_lines, write_json

STEPS_OF_SPEED = 24
EXPECTED = "a file of an earlier call: delete it to measure again"
PROBED = 5000  # training images of the ridge probe, at most
PRETRAINING_LR, TUNING_LR, SCRATCH_LR = 1.5e-3, 6e-3, 4e-3  # as experiments/transfer chose them


@dataclasses.dataclass
class Place:
    """Where the data and the runs are."""

    data: str
    out: Path
    size: Size


def pretraining_config(arm: Arm, place: Place, seed: int, steps: int):
    """Return the config of the pre-training of an arm."""
    size, config = place.size, pretrain_config()
    config.seed = seed
    config.data.image_size = (size.image_size, size.image_size)
    config.method.block_size = size.block_sizes[arm.family]
    config.method.decoder.update(size.decoder)
    config.method.decoder.epsilon = 1e-6 if arm.family == "vit" else 1e-5
    config.method.update(size.common)
    config.method.backbone.update(size.families[arm.family])
    config.optimizer.base_lr = PRETRAINING_LR
    config.schedule.update(batch_size=size.batch_size, steps=steps, warmup_epochs=0.0)
    config.run.update(picture_every=0, checkpoint_every=0, log_every=max(1, min(20, steps // 8)))
    config.update_from_flattened_dict(arm.pretraining)
    return config


def tuning_config(arm: Arm, place: Place, seed: int, steps: int):
    """Return the config of the fine-tuning of an arm, without augmentation: the runs are short."""
    size, config = place.size, finetune_config()
    config.seed = seed
    side = size.image_size
    config.data.update(image_size=(side, side), crop_scale=(0.4, 1.0), eval_resize=side)
    config.model.update(size.common)
    config.model.backbone.drop_path = 0.0
    config.augment.update(magnitude=0.0, random_erasing=0.0, mixup=0.0, cutmix=0.0)
    config.optimizer.update(base_lr=TUNING_LR, layer_decay=0.75)
    config.schedule.update(batch_size=size.tuning_batch, steps=steps, warmup_epochs=0.0)
    config.run.update(checkpoint_every=0, eval_epochs=0.0, log_every=max(1, min(20, steps // 8)))
    config.run.baseline_images = 0
    if arm.pretraining is None:
        config.optimizer.update(base_lr=SCRATCH_LR, layer_decay=1.0)
        config.model.backbone.update(size.families[arm.family])
        config.model.backbone.positions = "learned" if arm.family == "vit" else None
    config.update_from_flattened_dict(arm.tuning)
    return config


def warm_up(config, records: int) -> None:
    """Let a tenth of the updates raise the learning rate."""
    schedule = config.schedule
    schedule.warmup_epochs = 0.1 * schedule.steps * schedule.batch_size / records


def pretrain(arm: Arm, place: Place, seed: int, steps: int, folder: Path, records: int) -> Path:
    """Pre-train, or go on with it."""
    config = pretraining_config(arm, place, seed, steps)
    warm_up(config, records)
    return fastmim_jax.pretrain(place.data, folder, config=config)


def finetune(arm: Arm, place: Place, seed: int, steps: int, folder: Path, init, records: int) -> Path:
    """Fine-tune, or go on with it."""
    config = tuning_config(arm, place, seed, steps)
    warm_up(config, records)
    return fastmim_jax.finetune(place.data, folder, config=config, init=init or "")


def images_per_second(folder: Path) -> float:
    """Return the median speed of a run, without its first lines, which compile."""
    lines = [x for x in read_json_lines(folder / "metrics.jsonl").records if "loss" in x]
    return float(np.median([x["images_per_second"] for x in lines[len(lines) // 3 :]]))


def measure(run, folder: Path, batch_size: int) -> Speed:
    """Return the speed of a short run; run: starts it in the folder."""
    start = time.time()
    run(folder)
    speed = images_per_second(folder)
    steps = STEPS_OF_SPEED * batch_size / speed
    return Speed(speed, max(0.0, time.time() - start - steps))


def same_tuning(arm: Arm, arms: dict[str, Arm], measured: Iterable[str]) -> str | None:
    """Return the name of a measured arm that differs in the length of fine-tuning alone, or None."""
    return next(
        (name for name in measured if name in arms and arms[name]._replace(longer=arm.longer) == arm), None
    )


def measure_speeds(arms: dict[str, Arm], place: Place, records: int) -> dict[str, dict[str, Speed]]:
    """Return {"pretraining": {name: Speed}, "tuning": ...}, measured where OUT/speeds.json has none."""
    file = place.out / "speeds.json"
    known = read_json(file, dict, EXPECTED) if file.exists() else {"pretraining": {}, "tuning": {}}
    for name, arm in arms.items():
        before = place.out / "speeds" / name
        if arm.pretraining is not None and name not in known["pretraining"]:
            known["pretraining"][name] = measure(
                lambda folder, arm=arm: pretrain(arm, place, 0, STEPS_OF_SPEED, folder, records),
                before,
                place.size.batch_size,
            )
        if same := same_tuning(arm, arms, known["tuning"]):
            known["tuning"].setdefault(name, known["tuning"][same])
        if name not in known["tuning"]:
            init = before if arm.pretraining is not None else None
            known["tuning"][name] = measure(
                lambda folder, arm=arm, init=init: finetune(
                    arm, place, 0, STEPS_OF_SPEED, folder, init, records
                ),
                place.out / "speeds" / f"{name}_tuned",
                place.size.tuning_batch,
            )
        write_json(file, known)
    return {
        kind: {name: Speed(*speeds[name]) for name in arms if name in speeds}
        for kind, speeds in known.items()
    }


def run_arm(name: str, arm: Arm, place: Place, seed: int, updates: Updates, records: int) -> dict:
    """Return the numbers of one arm and seed."""
    folder, tuned = place.out / f"{name}_{seed}", place.out / f"{name}_{seed}_tuned"
    line, start = {}, time.time()
    if arm.pretraining is not None:
        pretrain(arm, place, seed, updates.pretraining, folder, records)
        line["images_per_second"] = round(images_per_second(folder), 1)
        # By the speed, as the wall time of a run that was cut off is longer.
        line["pretraining_seconds"] = round(
            updates.pretraining * place.size.batch_size / line["images_per_second"]
        )
        probes = fastmim_jax.probe(folder, place.data, count=PROBED)
        best = max(probes, key=lambda probe: probe.held_out)
        line.update(probe=best.accuracies[0], probe_layer=best.layer)
    init = folder if arm.pretraining is not None else None
    finetune(arm, place, seed, updates.tuning, tuned, init, records)
    lines = [x for x in read_json_lines(tuned / "metrics.jsonl").records if "top1" in x]
    return {**line, "tuned": lines[-1]["top1"], "seconds": round(time.time() - start)}


def saved_updates(args, arms: dict[str, Arm], place: Place, records: int) -> dict[str, Updates]:
    """Return the updates of OUT/plan.json, which is made if there is none.

    Raises:
      SystemExit: it was made for other arguments, or the time is too short.
    """
    file = place.out / "plan.json"
    asked = {
        "minutes": args.minutes,
        "by": args.by,
        "size": args.size,
        "arms": [*arms],
        "seeds": args.seeds,
    }
    if file.exists():
        saved = read_json(file, dict, EXPECTED)
        if saved["asked"] != asked:
            sys.exit(f"{file} is the plan of {saved['asked']}, asked was {asked}: type another --out")
        return {name: Updates(*numbers) for name, numbers in saved["updates"].items()}
    speeds = measure_speeds(arms, place, records)
    seeds = len(args.seeds.split(","))
    try:
        updates = share_out(
            args.minutes, args.by, arms, seeds, **speeds, batch_size=place.size.batch_size,
            tuning_batch=place.size.tuning_batch,
        )  # fmt: skip
    except ValueError as error:
        sys.exit(str(error))
    write_json(file, {"asked": asked, "updates": updates})
    return updates


def choose_arms(words: str, group: str, size: Size) -> dict[str, Arm]:
    """Return the arms of a group, or some of them.

    Raises:
      SystemExit: no such arm.
    """
    arms = groups(size)[group]
    chosen = words.split(",") if words else [*arms]
    if unknown := [name for name in chosen if name not in arms]:
        sys.exit(f"no arm {', '.join(unknown)} in the group {group}; choose from: {', '.join(arms)}")
    return {name: arms[name] for name in chosen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="labelled images, see above")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of results.jsonl")
    parser.add_argument(
        "--minutes", type=float, required=True, help="of all runs, without measuring speeds"
    )
    parser.add_argument("--by", choices=("updates", "time"), default="updates", help="what is equal")
    parser.add_argument("--size", choices=[*SIZES], default="tiny", help="small: for an accelerator")
    parser.add_argument("--group", choices=[*groups(SIZES["tiny"])], default="main", help="which claim")
    parser.add_argument("--arms", default="", help="some of the group, joined by commas")
    parser.add_argument("--seeds", default="0,1,2")
    args = parser.parse_args()
    place = Place(args.data, args.out, SIZES[args.size])
    args.out.mkdir(parents=True, exist_ok=True)
    arms = choose_arms(args.arms, args.group, place.size)
    records = len(fastmim_jax.open_dataset(args.data))
    updates = saved_updates(args, arms, place, records)
    end = time.time() + 60 * args.minutes
    results = args.out / "results.jsonl"
    done = {(line["name"], line["seed"]) for line in read_json_lines(results).records}
    runs = [(name, seed) for seed in map(int, args.seeds.split(",")) for name in arms]
    for name, seed in runs:
        if (name, seed) in done:
            continue
        if time.time() > end:
            missing = [run for run in runs if run not in done]
            sys.exit(f"{args.minutes:g} minutes are over; missing: {missing}; the same command goes on")
        facts = {"group": args.group, "name": name, "seed": seed, "by": args.by, "size": args.size}
        facts |= {"device": jax.devices()[0].device_kind, "updates": updates[name].pretraining}
        facts |= {"tuning_updates": updates[name].tuning, "images": records}
        line = {**facts, **run_arm(name, arms[name], place, seed, updates[name], records)}
        print(json.dumps(line), flush=True)
        append_json_line(results, line)
        done.add((name, seed))


if __name__ == "__main__":
    main()
