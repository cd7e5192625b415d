"""A run directory: when a run may begin or continue there, and with which settings."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path, temporary_start
from hyperinit.base.settings import from_dict, read_config_file, to_dict, toml_value
from hyperinit.data.table import absolute, kind_of
from hyperinit.learn.config import LoopConfig, ReptileConfig, TrainConfig
from hyperinit.learn.state import Config, TrainingImages
from hyperinit.learn.tracking import LOG_NAME
from hyperinit.photos.load import NAMES
from hyperinit.photos.photographs import Photographs
from hyperinit.siren.store import CHECKPOINT_NAME, read_info

_logger = logging.getLogger("hyperinit")

CONFIG_NAME = "config.toml"
LOCK_NAME = ".lock"

# Files that a run killed before its first checkpoint can have left, besides temporary ones.
_BEFORE_A_CHECKPOINT = {
    *(CONFIG_NAME, LOCK_NAME, LOG_NAME, "images", "wandb", "wandb_id.txt"),
    *("tensorboard", "mlflow.db", "mlflow-files", "mlflow_id.txt"),
}

# Settings that do not affect training, so a resumed run may change them. The place of the images is
# one of them, because their hashes are compared.
MAY_CHANGE = {
    *("time_limit_min", "checkpoint_sec", "wandb", "log"),
    *("data", "data_memory_mib", "data_workers"),
    *("compare_budgets", "compare_lrs", "compare_images"),
}
LONGER = "max_steps"  # may be raised once a run has ended


def check_vacant(run_dir: Path) -> None:
    """Refuses a directory with files that a new run would overwrite or mix with its own.

    What a run left that was killed before its first checkpoint does not count.

    Raises:
        InputError: there are such files.
    """
    if not run_dir.exists():
        return
    if not run_dir.is_dir():
        raise InputError(f"{shown_path(run_dir)} is a file; choose another --out")
    names = {path.name for path in run_dir.iterdir()}
    if CHECKPOINT_NAME in names:
        raise InputError(
            f"{shown_path(run_dir)} is not empty, it holds a run; choose another --out, or"
            " --resume it"
        )
    written = (CHECKPOINT_NAME, CONFIG_NAME, LOG_NAME, "wandb_id.txt")
    # Temporary files, also with the names of earlier versions; those of SQLite.
    mine = (*map(temporary_start, written), *(f".{name}." for name in written), "mlflow.db-")
    others = sorted(n for n in names - _BEFORE_A_CHECKPOINT if not n.startswith(mine))
    if others or (names and not names & {CONFIG_NAME, LOCK_NAME}):
        first = (others or sorted(names))[0]
        raise InputError(
            f"{shown_path(run_dir)} is not empty, it holds {first!r}; choose another --out"
        )


def clear(run_dir: Path) -> None:
    """Removes the log of a run that wrote no checkpoint; the caller holds the lock.

    Raises:
        InputError: as `check_vacant`, or the log cannot be removed.
    """
    check_vacant(run_dir)
    try:
        (run_dir / LOG_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot remove {run_dir / LOG_NAME}: {error.strerror}") from error


def check_not_continued(run_dir: Path, kind: str, info: Mapping[str, Any]) -> None:
    """Refuses to continue from a checkpoint that is no longer the last; the caller holds the lock.

    Args:
        run_dir: The run's directory.
        kind: The kind of its checkpoint.
        info: The facts of the checkpoint when it was read.

    Raises:
        InputError: another process has written a newer one since.
    """
    now = read_info(run_dir / CHECKPOINT_NAME, kind)
    if any(now.get(field) != info[field] for field in ("step", "train_sec")):
        raise InputError(
            f"{shown_path(run_dir)}: another process has meanwhile continued this run to step"
            f" {now.get('step')}; run the command again"
        )


def checkpoint_to_resume(run: Path) -> Path:
    """The checkpoint of a run directory, or of a path to the checkpoint itself.

    Raises:
        InputError: the run was stopped before its first checkpoint, or the file is a copy under
            another name; the message says what to do.
    """
    if run.is_file() and run.name != CHECKPOINT_NAME:
        # Training from the copy would replace the run's own checkpoint.
        raise InputError(
            f"{shown_path(run)}: a run continues from its {CHECKPOINT_NAME}; copy the file to a new"
            " directory under this name, and --resume that"
        )
    path = run if run.is_file() else run / CHECKPOINT_NAME
    if not path.exists() and (run / CONFIG_NAME).is_file():
        shown = shown_path(run)
        raise InputError(
            f"{shown}: the run was stopped before its first checkpoint, so nothing is lost; start"
            f" it anew with --config {shown}/{CONFIG_NAME} --out {shown}"
        )
    return path


def check_kept(config: LoopConfig, given: Mapping[str, Any], step: int) -> None:
    """Refuses flags that would change the settings of a resumed run.

    Args:
        config: The run's own settings.
        given: The parsed command line.
        step: The step that the run has reached.

    Raises:
        InputError: there are such flags; the message names them.
    """
    settings = {field.name for field in fields(config)}
    # A setting is present only if it was typed, even as 0 or off; other flags are None or False.
    typed = {n for n, v in given.items() if n in settings or (v is not None and v is not False)}
    extra = sorted(typed - MAY_CHANGE - {"resume", "device"})
    if LONGER in extra and _goes_on(config, step, given[LONGER]):
        extra.remove(LONGER)
    if extra:
        off = {name for name in extra if given[name] is False}
        flags = [f"--{'no-' * (n in off)}{n.replace('_', '-')}" for n in extra]
        raise InputError(f"--resume keeps the run's own settings: leave out {', '.join(flags)}")


def _goes_on(config: LoopConfig, step: int, max_steps: int | str) -> bool:
    """Whether a run has ended and a flag or a file gives it more steps.

    Before its end, a longer schedule would make it a different run from the one that was begun.
    """
    wanted = str(max_steps)
    more = wanted.isdecimal() and len(wanted) < 20 and int(wanted) > config.max_steps
    return more and step >= config.max_steps


@dataclass(frozen=True)
class _Idle:
    """Settings that have no effect together with certain others.

    Attributes:
        settings: Their names.
        of: The configs that have them.
        where: Whether they have no effect in such a config.
        why: What is missing, or what replaces them.
    """

    settings: tuple[str, ...]
    of: type[LoopConfig]
    where: Callable[[Any], bool]
    why: str


_IDLE = (
    _Idle(
        ("inner_pixels", "second_order", "inner_loop", "step_size_lr", "normalized_steps"),
        TrainConfig,
        lambda config: config.inner_steps == 0,
        "there are no --inner-steps",
    ),
    _Idle(
        (
            *("weight_tokens", "token_size", "transformer_layers", "attention_heads"),
            *("lr", "start_weight"),
        ),
        ReptileConfig,
        lambda config: not config.patch_size,
        "it is for a transformer (--preset transformer, --patch-size)",
    ),
    _Idle(("eps",), ReptileConfig, lambda config: config.patch_size > 0, "a transformer has --lr"),
    _Idle(
        ("base_init",),
        ReptileConfig,
        lambda config: config.gradient_steps is not None,
        "--gradient-steps begins as the draw of the start that it names",
    ),
    _Idle(
        ("memory_images",),
        ReptileConfig,
        lambda config: not config.read_numbers,
        "it is for --read-numbers",
    ),
    _Idle(
        ("compare_budgets", "compare_lrs"),
        LoopConfig,
        lambda config: config.compare_images == 0,
        "without --compare-images nothing is compared",
    ),
    _Idle(
        ("eval_steps",),
        LoopConfig,
        lambda config: config.compare_images == 0,
        "without --compare-images nothing is evaluated",
    ),
    _Idle(
        ("color_profiles",),
        LoopConfig,
        lambda config: config.data not in NAMES and kind_of(config.data) is not None,
        "profiles can be left out only for a directory of images",
    ),
    _Idle(
        ("wandb",),
        LoopConfig,
        lambda config: config.log != "wandb" and config.wandb in {"online", "offline"},
        "--log names another logger",
    ),
    _Idle(
        ("split_by", "group_tiles"),
        LoopConfig,
        lambda config: config.data in NAMES,
        "named data sets have a split of their own",
    ),
)


def check_of_use(config: LoopConfig, given: Mapping[str, Any]) -> None:
    """Refuses flags that would have no effect, because the user expects one.

    They are allowed in a config file, because a run's own file lists all settings.

    Args:
        config: The run's settings.
        given: The parsed command line.

    Raises:
        InputError: there is such a flag; the message says what it is for.
    """
    for row in _IDLE:
        idle = [name for name in row.settings if name in given]
        if idle and isinstance(config, row.of) and row.where(config):
            off = "no-" * (given[idle[0]] is False)
            raise InputError(f"--{off}{idle[0].replace('_', '-')} does nothing here: {row.why}")


def as_edited(config: Config, path: Path, step: int) -> Config:
    """The settings of a run to resume, with the allowed edits of its config file.

    If the file cannot be read, the stored settings are used, with a warning, because the file is
    about to be written anew.

    Args:
        config: The settings in its checkpoint.
        path: Its config file.
        step: The step that the run has reached.

    Raises:
        InputError: a value in the file is wrong, or would change the training.
    """
    try:
        read = read_config_file(path)
    except InputError as error:
        if path.exists():
            _logger.warning(
                "%s; the run continues with its own settings, and writes them there", error
            )
        return config
    stored = to_dict(config)
    # A file of an older version has fewer settings.
    found = from_dict(type(config), {**stored, **read}, source=shown_path(path))
    changed = [name for name, value in to_dict(found).items() if value != stored[name]]
    kept = [name for name in changed if name not in MAY_CHANGE]
    if LONGER in kept and _goes_on(config, step, found.max_steps):
        kept.remove(LONGER)
    if kept:
        values = ", ".join(f"{name} back to {toml_value(stored[name])}" for name in kept)
        raise InputError(
            f"{shown_path(path)}: --resume keeps the run's own settings: set {values}, or start a"
            " new run with --config and this file"
        )
    return found


def with_absolute_data(config: Config) -> Config:
    """The same settings with an absolute data path, so that any working directory can resume."""
    return config if config.data in NAMES else replace(config, data=absolute(config.data))


def facts_of_images(photos: Photographs, images: TrainingImages) -> dict[str, Any]:
    """The facts about its images in a run's checkpoint, to refuse resuming on others."""
    return {
        "train_hashes": images.hashes,
        "held_out_hashes": [photo.hash for photo in photos.held_out],
        # Only a hash, because there can be millions.
        "weights_hash": hashlib.sha256(repr([*images.weights]).encode()).hexdigest(),
    }


def check_same_images(
    config: LoopConfig, begun_with: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    """Refuses to resume a run on other images, or with other sampling weights.

    Args:
        begun_with: The facts in the run's checkpoint, see `facts_of_images`; empty for a new run,
            and incomplete for an old one.
        found: The same facts about the present images.

    Raises:
        InputError: they differ.
    """
    differs = {name for name in found if begun_with.get(name, found[name]) != found[name]}
    for name, which in (("train_hashes", "training"), ("held_out_hashes", "held-out")):
        if name in differs and sorted(begun_with[name]) == sorted(found[name]):
            raise InputError(
                f"{config.data}: the {which} images are in another order than when this run began:"
                " give them back their names and places"
            )
        if name in differs:
            raise InputError(
                f"{config.data}: not the {which} images this run began with"
                f" ({len(begun_with[name])} then, {len(found[name])} now); say with --data where"
                " they are"
            )
    if differs:
        raise InputError(
            f"{config.data}: the images are in other folders than when this run began, which"
            " data_weights weights differently: put them back, or say with --data where they are"
        )
