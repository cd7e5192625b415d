"""The tracks: how fits may differ from init to init, and how they are judged. One row per track."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyperinit.base.errors import unknown_name


@dataclass(frozen=True)
class Track:
    """The properties of one track; no other code in the package depends on a track's name.

    Attributes:
        name: The name in records.
        meaning: What it measures, as a sentence for readers.
        may_change_fit: Whether entries may differ in more than their init.
        takes_options: Whether `--fit` changes the fit of all its inits.
        freezes_layers: Whether every init is an entry for every set of frozen layers.
        source_weight_decay: Whether an init has the weight decay that its source gives for its row.
        along_curve: Whether it is one long fit, scored along its curve, at the rate of an LR range
            test unless one is given. Otherwise it is a ladder of budgets, scored by the ends of
            fits whose rates were chosen on tuning images.
        whole_settings: Whether all settings define the workload; otherwise only the sizes do.
        preset: The protocol's preset if none is named.
        chosen_by: How rates are chosen without tuning images, for readers.
        own_command: Whether it has a command of its own and is not a choice of `--track`.
        full_batch: Whether every step sees all pixels, so that an epoch is a step; an init's epochs
            count too.
        lr: The rate of all its fits if none is given; None: from the range test, or chosen.
        eval_epochs: Along a curve: seed epochs between two evaluations.
        psnr_steps: Steps after which tables have a column with the mean PSNR over pairs.
    """

    name: str
    meaning: str
    may_change_fit: bool = True
    takes_options: bool = False
    freezes_layers: bool = False
    source_weight_decay: bool = False
    along_curve: bool = False
    whole_settings: bool = False
    preset: str = "standard"
    chosen_by: str = "on these very images"
    own_command: bool = False
    full_batch: bool = False
    lr: float | None = None
    eval_epochs: int = 10
    psnr_steps: tuple[int, ...] = ()

    @property
    def unit(self) -> str:
        """The unit of its costs, besides seconds."""
        if self.full_batch:
            return "steps"
        return "seed epochs" if self.along_curve else "epochs"


# In the order of a report's sections.
TRACKS: Mapping[str, Track] = {
    row.name: row
    for row in (
        Track(
            "tuned",
            "Every init is fitted alike, at its own best learning rate.",
            may_change_fit=False,
            whole_settings=True,
        ),
        Track(
            "seed",
            "As in the seed experiment: constant rate from a range test, random points.",
            source_weight_decay=True,
            along_curve=True,
            preset="seed",
            chosen_by="by a range test",
        ),
        Track(
            "published",
            "As in the literature: every step sees all pixels, with Adam at a constant 1e-4.",
            along_curve=True,
            preset="published",
            chosen_by="in advance: 1e-4 for all",
            full_batch=True,
            lr=1e-4,
            eval_epochs=50,
            psnr_steps=(500, 1000, 2000, 5000),
        ),
        Track(
            "open",
            "The fit itself may differ; the name of an entry then says how.",
            takes_options=True,
        ),
        Track(
            "frozen",
            "Some layers stay as the init made them: the numbers after “frozen”, counted from 0.",
            freezes_layers=True,
            preset="standard-1",
            own_command=True,
        ),
    )
}

_TUNING = "-lr"  # in files, the end of the track of records that only serve to choose a rate


def find_track(name: str) -> Track:
    """The row of a track.

    Raises:
        InputError: there is no such track; the message lists the known ones.
    """
    if name not in TRACKS:
        raise unknown_name("track", name, TRACKS)
    return TRACKS[name]


def track_of(name: str) -> Track:
    """The row of a record's track; a track that this program does not know is a plain ladder."""
    return TRACKS.get(name) or Track(name, "")


def stored_track(name: str, is_tuning: bool) -> str:
    """A track's name in files and in identities of trials."""
    return name + _TUNING if is_tuning else name


def split_stored_track(text: str) -> tuple[str, bool]:
    """The inverse: the track's name, and whether the record only serves to choose a rate."""
    return text.removesuffix(_TUNING), text.endswith(_TUNING)
