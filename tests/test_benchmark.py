"""Benchmarks of tiny problems: what is run, what is kept, and what is refused."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import smooth_image, tiny_hyper
from records import record as made_up

from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.bench import run as benchmark
from hyperinit.bench.plan import Entry, Plan, frozen_variants, with_changes
from hyperinit.bench.run import Check, RecordFile, open_records, run, verify
from hyperinit.bench.sources import callable_init, load_init
from hyperinit.bench.trial import Trial
from hyperinit.fitting.lr_range import lr_range_test
from hyperinit.images.save import save_image
from hyperinit.inits.rules import NAMED_INITS, named_init
from hyperinit.inits.start import Init, model_init, spec_init
from hyperinit.learn.state import TrainState, save_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.photos.workload import NamedImage
from hyperinit.record.protocol import PROTOCOLS, Protocol
from hyperinit.record.records import Record, append_record, read_records
from hyperinit.report.tables import markdown
from hyperinit.score.score import score, score_groups
from hyperinit.siren.store import save_params
from scripts import benchmark as script
from scripts import frozen_layers

WIDTH, DEPTH = 16, 2
PROTOCOL = Protocol(
    image_size=16,
    width=WIDTH,
    depth=DEPTH,
    budgets_epochs=(1, 2, 4),
    lrs=(1e-3, 3e-3, 1e-2),
    lr_images=2,
    lr_budget_epochs=2,
    batch_pixels=64,
    batch_factors=(),
    level_rates=False,
)
CHOOSING = replace(PROTOCOL, batch_factors=(4,), level_rates=True)


def picture(seed: int, size: int = 16) -> NamedImage:
    return NamedImage.cropped(f"image {seed}", smooth_image(20, seed), size)


def named(name: str) -> Init:
    return spec_init(name, named_init(name), WIDTH, DEPTH)


def make_plan(track: str = "tuned", **changes: Any) -> Plan:
    plan: dict[str, Any] = {
        "track": track,
        "entries": (Entry(named("paper")), Entry(named("33"))),
        "images": (picture(0), picture(1)),
        "tuning_images": () if track == "seed" else (picture(2), picture(3)),
        "seeds": 1,
        "protocol": PROTOCOL,
    }
    if "inits" in changes:
        changes["entries"] = tuple(map(Entry, changes.pop("inits")))
    return Plan(**{**plan, **changes})


def measured(plan: Plan, path: Path, workers: int = 1, **options: Any) -> list[Record]:
    with open_records(path, workers=workers) as file:
        return list(run(plan, file, **options))


def results(records: Iterable[Record]) -> set[tuple[Any, ...]]:
    return {(one.trial, one.mse, one.params_hash) for one in records}


# What is run


def test_the_tuned_track_tunes_on_tuning_images_and_tests_on_test_images(tmp_path):
    plan = make_plan()
    records = measured(plan, tmp_path / "r.jsonl")
    tuning = [one for one in records if one.is_tuning]
    tests = [one for one in records if not one.is_tuning]
    assert {one.image for one in tuning} == {"image 2", "image 3"}
    assert {one.image for one in tests} == {"image 0", "image 1"}
    assert len(tests) == 2 * 2 * 3
    assert {one.seed for one in tests}.isdisjoint({one.seed for one in tuning})
    assert sum(one.budget_epochs for one in records) <= plan.total_epochs


@pytest.mark.slow
def test_every_init_gets_the_rate_that_was_best_on_the_tuning_images(tmp_path):
    records = measured(make_plan(), tmp_path / "r.jsonl")
    for found in score(records):
        for budget, rung in found.rungs.items():
            tuned = min(budget, PROTOCOL.lr_budget_epochs)
            errors: dict[float, list[float]] = {}
            for one in records:
                if (one.is_tuning, one.init, one.budget_epochs) == (True, found.init, tuned):
                    errors.setdefault(one.lr, []).append(one.mse)
            products = {lr: errors[lr][0] * errors[lr][1] for lr in errors}
            best = min(products, key=lambda lr: products[lr])
            assert [one.lr for one in rung.chosen] == [best], (found.init, budget)


@pytest.mark.slow
def test_rungs_above_the_last_tuned_one_are_not_tuned(tmp_path):
    records = measured(make_plan(), tmp_path / "r.jsonl")
    assert {one.budget_epochs for one in records if one.is_tuning} == {1, 2}


def test_later_rungs_try_the_best_rate_of_the_rung_before_and_its_neighbours(tmp_path):
    lrs = (1e-5, 1e-4, 1e-3, 1e-2)
    plan = make_plan(protocol=replace(PROTOCOL, lrs=lrs), inits=(named("33"),))
    records = [one for one in measured(plan, tmp_path / "r.jsonl") if one.is_tuning]
    tried = [sorted({one.lr for one in records if one.budget_epochs == b}) for b in (1, 2)]
    first = [one for one in records if one.budget_epochs == 1]
    best = min(lrs, key=lambda lr: sum(torch.tensor(r.mse).log() for r in first if r.lr == lr))
    at = lrs.index(best)
    assert tried == [list(lrs), list(lrs[max(at - 1, 0) : at + 2])]


def test_no_rate_above_one_that_diverged_is_tried(tmp_path, monkeypatch):
    real = Trial.run

    def diverging(self: Trial, on_eval: Any) -> Any:
        record, result = real(self, on_eval)
        return replace(record, diverged=self.lr >= 3e-3), result

    monkeypatch.setattr(Trial, "run", diverging)
    records = measured(make_plan(inits=(named("33"),)), tmp_path / "r.jsonl")
    assert {one.lr for one in records if one.is_tuning} == {1e-3, 3e-3}
    assert {one.lr for one in records if not one.is_tuning} == {1e-3}


def beside(one: Record) -> tuple[int, bool]:
    return one.settings["batch_pixels"], one.settings.get("rising_rates", False)


@pytest.mark.slow
def test_batch_and_profile_of_the_rates_are_chosen_for_every_init_as_its_rate_is(
    tmp_path, monkeypatch
):
    real = Trial.run

    def liking(self: Trial, on_eval: Any = lambda point: None) -> Any:
        """33 likes large batches and one rate, the others what the protocol has."""
        record, result = real(self, on_eval)
        settings = self.settings
        likes = (settings["batch_pixels"] > 64) + (not settings.get("rising_rates"))
        worse = 4.0 ** ((2 - likes) if self.init.name == "33" else likes)
        worse *= 1 + abs(torch.tensor(self.lr / 3e-3).log().item()) / 10  # and rates near 3e-3
        end = replace(record.curve[-1], mse=worse)
        return replace(record, curve=(*record.curve[:-1], end)), result

    monkeypatch.setattr(Trial, "run", liking)
    plan = make_plan(images=(picture(0),), protocol=CHOOSING)
    path = tmp_path / "r.jsonl"
    records = measured(plan, path)
    tests = [one for one in records if not one.is_tuning]
    assert {beside(one) for one in tests if one.init == "33"} == {(256, False)}
    assert {beside(one) for one in tests if one.init == "paper"} == {(64, True)}
    assert len({one.label for one in tests}) == 2  # names stay
    # Every alternative was tried for both on every tuned rung, at a rate that suits its batch.
    for name in ("33", "paper"):
        for budget in (1, 2):
            tried = [one for one in records if one.is_tuning and one.init == name]
            own = {beside(one) for one in tried if one.budget_epochs == budget}
            assert {batch for batch, _ in own} == {64, 256}
            assert {rising for _, rising in own} == {True, False}
    large = {one.lr for one in records if one.is_tuning and beside(one)[0] == 256}
    assert large <= {float(f"{lr * 4**0.45:.3g}") for lr in PROTOCOL.lrs}
    assert sum(one.budget_epochs for one in records) <= plan.total_epochs
    # Scoring chooses the same, tables say so, and nothing is run twice.
    for found in score(records):
        for rung in found.rungs.values():
            own = dict(rung.chosen[0].others)
            likes_large = found.init == "33"
            assert own == {
                "batch_pixels": 256 if likes_large else 64,
                "rising_rates": not likes_large,
                "warmup_steps": 0,
                "rising_units": False,
            }
    table = markdown(score_groups(records))
    assert "batch_pixels 256, rising_rates False" in table and "rising_rates True" not in table
    assert "and the settings shown with it" in table
    assert len(measured(plan, path)) == len(records) == len(read_records(path))
    with open_records(path) as file:
        assert len(list(verify(plan, file, len(records)))) == len(records)


def test_an_entry_that_changes_its_batch_keeps_it(tmp_path):
    entry = with_changes(Entry(named("33")), {"batch_pixels": 32})
    plan = make_plan("open", entries=(entry,), images=(picture(0),), protocol=CHOOSING)
    records = measured(plan, tmp_path / "r.jsonl")
    assert {batch for batch, _ in map(beside, records)} == {32}
    assert {one.lr for one in records} <= set(PROTOCOL.lrs)


def test_version_1_and_quick_have_no_alternatives():
    assert Protocol(**PROTOCOLS["standard-1"]).alternatives == {}
    assert all(len(v) == 1 for v in Protocol(**PROTOCOLS["quick"]).alternatives.values())
    whole = replace(CHOOSING, batch_pixels=400, batch_factors=(4, 0.5))
    assert whole.alternatives["batch_pixels"] == (400, 200)  # no more than the image has


def test_smaller_budgets_are_finished_before_larger_ones(tmp_path):
    budgets = [one.budget_epochs for one in measured(make_plan(), tmp_path / "r.jsonl")]
    assert budgets == sorted(budgets)


@pytest.mark.slow
def test_a_solved_pair_is_not_run_on_larger_budgets(tmp_path, monkeypatch):
    usual = measured(make_plan(), tmp_path / "usual.jsonl")
    at_2 = [one for one in usual if not one.is_tuning and one.budget_epochs == 2]
    easiest = min(at_2, key=lambda one: one.mse)
    monkeypatch.setattr("hyperinit.bench.run.TARGETS", (1.0, easiest.mse))
    made = measured(make_plan(), tmp_path / "r.jsonl")
    left_out = {one.trial for one in usual} - {one.trial for one in made}
    (solved,) = [one for one in usual if one.trial in left_out]
    assert (solved.init, solved.image, solved.budget_epochs) == (easiest.init, easiest.image, 4)


# What is kept


def test_a_finished_plan_is_never_run_again(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    first = measured(make_plan(), path)
    content = path.read_bytes()
    monkeypatch.setattr(Trial, "run", lambda *_: pytest.fail("ran again"))
    assert [one.trial for one in measured(make_plan(), path)] == [one.trial for one in first]
    assert path.read_bytes() == content


@pytest.mark.slow
def test_a_file_of_the_first_format_is_not_run_again(tmp_path, monkeypatch):
    """Where the name of an init says what was changed in its fit, and nothing else does."""
    for track, entries in {
        "frozen": frozen_variants(Entry(named("33")), DEPTH),
        "open": [with_changes(Entry(named("33")), {"sampler": "points", "beta2": 0.99})],
        "seed": [with_changes(Entry(named("33")), {"lr": 3.3e-5})],
    }.items():
        make = seed_plan if track == "seed" else functools.partial(make_plan, track)
        plan = make(entries=tuple(entries))
        first = measured(plan, tmp_path / "new.jsonl")
        lines = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text().splitlines()]
        (tmp_path / "new.jsonl").unlink()
        for one, line in zip(first, lines, strict=True):
            line["init"] = one.label
            del line["changes"]
        old = tmp_path / f"{track}.jsonl"
        old.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with monkeypatch.context() as patched:
            patched.setattr(Trial, "run", lambda *_: pytest.fail("ran again"))
            again = measured(plan, old)
        assert [(one.label, one.changes) for one in again] == [
            (one.label, json.loads(json.dumps(one.changes))) for one in first
        ]


def test_a_file_of_another_kind_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 no line ends in here")
    with pytest.raises(InputError, match="not a record file"), open_records(path):
        pass
    assert path.read_bytes() == b"\xff\xd8\xff\xe0 no line ends in here"


@pytest.mark.slow
@pytest.mark.parametrize("interrupted_at", [1, 17, 40])
def test_an_interrupted_plan_goes_on_and_loses_and_doubles_nothing(tmp_path, interrupted_at):
    whole = measured(make_plan(), tmp_path / "whole.jsonl")
    path, evals = tmp_path / "r.jsonl", 0

    def interrupt(trial: Trial, point: Any) -> None:
        nonlocal evals
        evals += 1
        if evals == interrupted_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(make_plan(), path, on_eval=interrupt)
    measured(make_plan(), path)
    lines = path.read_text().splitlines()
    again = read_records(path)
    assert len(lines) == len(again) == len(whole)
    assert [(o.trial, o.mse) for o in again] == [(o.trial, o.mse) for o in whole]


@pytest.mark.slow
@pytest.mark.parametrize("track", ["tuned", "seed"])
def test_fits_side_by_side_give_the_same_records(tmp_path, track):
    plan = make_plan(track, seeds=2)
    one = measured(plan, tmp_path / "one.jsonl")
    three = measured(plan, tmp_path / "three.jsonl", workers=3)
    assert len(one) == len(three)
    assert results(one) == results(three) == results(read_records(tmp_path / "three.jsonl"))


@pytest.mark.slow
def test_a_plan_that_ends_amid_fits_side_by_side_loses_and_doubles_nothing(tmp_path):
    whole = measured(make_plan(), tmp_path / "whole.jsonl")
    path = tmp_path / "r.jsonl"
    with open_records(path, workers=2) as file:
        running = run(make_plan(), file)
        seen = [next(running) for _ in range(9)]
        running.close()
    assert results(seen) <= results(read_records(path))
    measured(make_plan(), path, workers=2)
    assert len(path.read_text().splitlines()) == len(whole)
    assert results(read_records(path)) == results(whole)


@pytest.mark.slow
def test_an_init_may_draw_from_the_global_generator_side_by_side(tmp_path):
    drawn = named("33")

    def make(image: torch.Tensor, seed: int) -> Any:
        torch.manual_seed(seed)
        torch.rand(1000).sort()  # time for another thread to come between
        params = drawn.start(image, seed).params
        return params.map(lambda value: value * (1 + 0.1 * torch.rand(())))

    plan = make_plan(inits=(replace(drawn, make=make),), seeds=4)
    one = measured(plan, tmp_path / "one.jsonl")
    assert results(measured(plan, tmp_path / "four.jsonl", workers=4)) == results(one)


def test_an_init_that_fails_side_by_side_is_one_clear_line(tmp_path):
    broken = replace(named("33"), make=lambda image, seed: "no SIREN")
    with pytest.raises(InputError, match="must give the Params of one SIREN"):
        measured(make_plan(inits=(named("paper"), broken)), tmp_path / "r.jsonl", workers=2)


@pytest.mark.slow
def test_a_change_of_settings_is_another_trial(tmp_path):
    first = measured(make_plan(), tmp_path / "r.jsonl")
    other = make_plan(protocol=replace(PROTOCOL, batch_pixels=32))
    second = measured(other, tmp_path / "r.jsonl")
    assert {one.trial for one in first}.isdisjoint({one.trial for one in second})
    assert len(read_records(tmp_path / "r.jsonl")) == len(first) + len(second)


def test_two_processes_do_not_write_to_one_file(tmp_path):
    with (
        open_records(tmp_path / "r.jsonl"),
        pytest.raises(InputError, match="another process"),
        open_records(tmp_path / "r.jsonl"),
    ):
        pass
    with open_records(tmp_path / "r.jsonl"):
        pass  # the lock goes with its holder


@pytest.mark.slow
def test_a_file_of_another_protocol_version_is_left_as_it_is(tmp_path):
    path = tmp_path / "r.jsonl"
    (record, *_) = measured(make_plan(), tmp_path / "other.jsonl")
    append_record(path, replace(record, version=0))
    content = path.read_bytes()
    with pytest.raises(InputError, match="protocol version 0"):
        measured(make_plan(), path)
    assert path.read_bytes() == content


@pytest.mark.slow
def test_rerunning_a_stored_trial_gives_the_same_error(tmp_path):
    plan = make_plan()
    measured(plan, tmp_path / "r.jsonl")
    content = (tmp_path / "r.jsonl").read_bytes()
    checks = list(verify(plan, RecordFile(tmp_path / "r.jsonl"), 6))
    assert len(checks) == 6 and max(check.difference for check in checks) <= 1e-6
    assert {check.record.is_tuning for check in checks} == {False, True}
    assert (tmp_path / "r.jsonl").read_bytes() == content


@pytest.mark.slow
def test_verifying_finds_a_record_that_cannot_be_reproduced(tmp_path):
    plan = make_plan()
    (record, *_) = measured(plan, tmp_path / "r.jsonl")
    worse = replace(record.end, mse=record.mse * 1.001)
    append_record(tmp_path / "bad.jsonl", replace(record, curve=(*record.curve[:-1], worse)))
    (check,) = verify(plan, RecordFile(tmp_path / "bad.jsonl"), 3)
    assert check.difference == pytest.approx(1e-3, rel=1e-2)


def test_a_record_whose_costs_or_errors_on_the_way_are_others_is_no_agreement():
    record = made_up(mse=0.1)
    cheaper = replace(record.end, epochs=record.end.epochs / 2)
    better = replace(record.start, mse=record.start.mse / 4)
    for curve, found in (
        (record.curve, 0.0),
        ((record.start, cheaper), 1.0),
        ((better, record.end), 3.0),
        ((record.end,), inf),
    ):
        assert Check(replace(record, curve=curve), record).difference == found


def test_an_error_that_was_or_became_none_is_no_agreement():
    """The worst of such reruns was shown as 0, and a stored error of 0 was a traceback."""
    then = [made_up(mse=mse) for mse in (inf, 0.0, 0.1, inf, 0.0)]
    now = [made_up(mse=mse) for mse in (0.1, 0.1, inf, inf, 0.0)]
    found = [Check(*pair).difference for pair in zip(then, now, strict=True)]
    assert found == [inf, inf, inf, 0.0, 0.0]


@pytest.mark.slow
def test_records_of_another_plan_cannot_be_verified(tmp_path):
    measured(make_plan(), tmp_path / "r.jsonl")
    other = make_plan(inits=(named("22"),))
    with pytest.raises(InputError, match="has no trial"):
        list(verify(other, RecordFile(tmp_path / "r.jsonl"), 1))


# What is refused


def test_a_test_image_that_an_init_was_made_from_is_refused():
    source = smooth_image(20, 0)
    image = NamedImage.cropped("leak.png", source, 16)
    for leaked in (image.hash, image.source_hash):
        learned = replace(named("33"), name="hyper", train_hashes=frozenset({leaked}))
        with pytest.raises(InputError, match=r"hyper was trained on the test image leak\.png"):
            make_plan(inits=(learned,), images=(image,))
        make_plan(inits=(learned,), images=(picture(1),))


def test_a_tuning_image_that_is_tested_on_is_refused():
    with pytest.raises(InputError, match="is the test image"):
        make_plan(tuning_images=(picture(2), picture(0)))
    quarter = replace(picture(3), source_hash=picture(0).source_hash)
    with pytest.raises(InputError, match="is the test image"):
        make_plan(tuning_images=(picture(2), quarter))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"track": "fast"}, "unknown track 'fast'"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"inits": ()}, "no inits"),
        ({"images": ()}, "no images"),
        ({"inits": (named("33"), named("33"))}, "two inits are called 33: name one of them"),
        ({"images": (picture(0), picture(0))}, "two images are the same"),
        ({"tuning_images": (picture(2),)}, "tuned on 2 images"),
        (
            {"entries": (with_changes(Entry(named("33")), {"sampler": "points"}),)},
            "use the open track",
        ),
    ],
)
def test_plans_that_would_not_measure_what_they_say_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make_plan(**changes)


def test_an_init_of_another_size_is_refused(tmp_path):
    other = spec_init("wide", named_init("33"), 32, DEPTH)
    with pytest.raises(InputError, match=r"wide is for a SIREN of 2 x 32, not 2 x 16"):
        measured(make_plan(inits=(other,)), tmp_path / "r.jsonl")


def test_a_function_that_gives_no_params_is_refused(tmp_path):
    wrong = Init("wrong", lambda image, seed: {})  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match="wrong must give the Params"):
        measured(make_plan(inits=(wrong,)), tmp_path / "r.jsonl")


# Other tracks


def test_a_hypernetwork_pays_for_the_pixels_it_looks_at(tmp_path):
    plan = make_plan(inits=(model_init("hyper", tiny_hyper(inner_steps=2)),))
    for record in measured(plan, tmp_path / "r.jsonl"):
        assert record.init_epochs == 2 * 32 / 256 == record.start.epochs
        assert record.epochs == pytest.approx(record.budget_epochs)


def test_the_open_track_changes_the_fit_and_says_so(tmp_path):
    plan = make_plan("open", entries=(with_changes(Entry(named("33")), {"sampler": "points"}),))
    records = measured(plan, tmp_path / "r.jsonl")
    assert {(one.init, one.label) for one in records} == {("33", "33 sampler=points")}
    assert all(one.changes == {"sampler": "points"} for one in records)
    assert {one.settings["sampler"] for one in records} == {"points"}
    assert {(one.track, one.is_tuning) for one in records} == {("open", False), ("open", True)}


def test_records_name_later_options_only_where_they_are_used(tmp_path):
    """So that records made before an option existed stay the same trials."""
    plain, changed = (
        Entry(named("33")),
        with_changes(Entry(named("33")), {"hidden_dtype": "bfloat16"}),
    )
    records = measured(make_plan("open", entries=(plain, changed)), tmp_path / "r.jsonl")
    for one in records:
        assert not {"layer_lr_factors", "engine", "backward_dtype"} & set(one.settings)
        assert one.settings.get("hidden_dtype") == ("bfloat16" if one.changes else None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_restarts": 2}, "max_restarts must be 0 in a benchmark"),
        ({"engine": "auto"}, "must be given in a benchmark"),
        ({"hidden_dtype": "auto"}, "must be given in a benchmark"),
        ({"backward_dtype": "auto"}, "must be given in a benchmark"),
        ({"batch_pixels": None}, "must be given in a benchmark"),
    ],
)
def test_a_benchmark_restarts_no_fit_and_leaves_nothing_to_be_chosen(tmp_path, options, message):
    plan = make_plan("open", entries=(with_changes(Entry(named("33")), options),))
    with pytest.raises(InputError, match=message):
        measured(plan, tmp_path / "r.jsonl")


def test_frozen_layers_are_every_set_of_the_issue_once():
    variants = frozen_variants(Entry(named("33")), depth=3)
    layers = [variant.changes.get("frozen_layers", ()) for variant in variants]
    assert layers == [(), (0,), (1,), (2,), (3,), (0, 1), (0, 1, 2)]
    assert [v.label for v in variants][:2] == ["33", "33 frozen 0"]
    assert len({v.label for v in variants}) == len(variants)


@pytest.mark.slow
def test_frozen_layers_are_recorded_and_make_a_difference(tmp_path):
    plan = make_plan("frozen", entries=tuple(frozen_variants(Entry(named("33")), DEPTH)))
    records = [one for one in measured(plan, tmp_path / "r.jsonl") if not one.is_tuning]
    errors = {tuple(one.settings["frozen_layers"]): one.mse for one in records}
    assert set(errors) == {(), (0,), (1,), (2,), (0, 1)}
    assert len(set(errors.values())) == len(errors)


def seed_plan(**changes: Any) -> Plan:
    protocol = replace(
        *(PROTOCOL,),
        budgets_epochs=(40.0,),
        batch_pixels=100,
        sampler="points",
        schedule="constant",
        output_lr_factor=1.0,
    )
    return make_plan("seed", **{"entries": (Entry(named("33")),), "protocol": protocol, **changes})


def test_the_seed_track_finds_its_rate_and_evaluates_every_ten_seed_epochs(tmp_path):
    record, _ = measured(seed_plan(), tmp_path / "r.jsonl")
    assert 1e-8 < record.lr < 1
    steps = [point.steps for point in record.curve]
    assert steps == [0, 30, 60, 90, 102]  # 3 steps of 100 of 256 points are a seed epoch
    assert record.settings["schedule"] == "constant"


def test_a_resumed_seed_track_does_not_look_for_its_rate_again(tmp_path, monkeypatch):
    first = measured(seed_plan(), tmp_path / "r.jsonl")
    monkeypatch.setattr(benchmark, "lr_range_test", lambda *_: pytest.fail("looked again"))
    again = measured(seed_plan(), tmp_path / "r.jsonl")
    assert [one.trial for one in again] == [one.trial for one in first]


def test_the_seed_track_takes_a_rate_that_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "lr_range_test", lambda *_: pytest.fail("looked for a rate"))
    given = with_changes(Entry(named("33")), {"lr": 3e-4})
    record, *_ = measured(seed_plan(entries=(given,)), tmp_path / "r.jsonl")
    assert record.lr == 3e-4 and record.label == "33 at 0.0003"
    assert record.init == "33" and record.settings["schedule"] == "constant"


@pytest.mark.slow
def test_the_seed_track_may_stop_once_both_errors_are_there(tmp_path):
    whole, *_ = measured(seed_plan(), tmp_path / "a.jsonl")
    level = max(whole.curve[2].mse, whole.curve[2].train_mse)
    stopped, *_ = measured(seed_plan(stop_mse=level), tmp_path / "b.jsonl")
    assert [p.mse for p in stopped.curve] == [p.mse for p in whole.curve[:3]]


def test_the_lr_range_test_leaves_the_start_alone_and_finds_a_descent():
    trial = seed_plan().trial(Entry(named("33")), picture(0), 40.0, None, 0)
    params = trial.start().params
    before = {name: value.clone() for name, value in params.items()}
    found = lr_range_test(params, picture(0).image, trial.fit_config)
    assert all(torch.equal(before[name], params[name]) for name in before)
    at = found.lrs.index(found.suggestion)
    assert found.losses[at + 1] < found.losses[at - 1]
    assert found == lr_range_test(params, picture(0).image, trial.fit_config)


# Where inits come from


def test_unknown_inits_list_the_known_ones():
    with pytest.raises(InputError, match=r"unknown init 'papr' \(did you mean 'paper'\?\).*22"):
        load_init("papr", NAMED_INITS, WIDTH, DEPTH)


def test_stored_parameters_are_an_init_that_is_the_same_for_every_image(tmp_path):
    start = named("33").start(smooth_image(), 3).params
    save_params(tmp_path / "mine.safetensors", start)
    init = load_init(str(tmp_path / "mine.safetensors"), NAMED_INITS, WIDTH, DEPTH)
    assert init.name == "mine"
    assert torch.equal(
        init.start(smooth_image(), 7).params["layers.0.weight"], start["layers.0.weight"]
    )


def test_a_run_directory_is_an_init_that_knows_its_training_images(tmp_path):
    hyper = tiny_hyper()
    state = TrainState(HYPERNETWORK, hyper, torch.optim.AdamW(hyper.parameters()))
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    path = run_dir / "checkpoint.safetensors"
    save_state(path, state, TrainConfig(), train_hashes=["abc"])
    for source in (run_dir, path):
        init = load_init(str(source), NAMED_INITS, WIDTH, DEPTH)
        assert init.name == "run" and init.train_hashes == {"abc"}
        assert init.epochs(smooth_image()) == 2 * 32 / 256


def test_an_init_can_be_given_another_name():
    assert load_init("mine=33", NAMED_INITS, WIDTH, DEPTH).name == "mine"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example of docs/guides/own-init.md, as a file."""
    text = (Path(__file__).parent.parent / "docs" / "guides" / "own-init.md").read_text(
        encoding="utf-8"
    )
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "my_init.py"
    path.write_text(code)
    return path


def test_the_documented_init_of_your_own_works(example):
    init = load_init(f"{example}:mean_colour", NAMED_INITS, 256, 5)
    image = picture(0).image
    params = init.start(image, 0).params
    assert init.name == "mean_colour" and init.epochs(image) == 1.0
    assert (params.config.width, params.config.depth) == (256, 5)
    assert not torch.equal(
        params["layers.5.bias"], init.start(1 - image, 0).params["layers.5.bias"]
    )


def test_a_changed_file_is_another_init(example):
    before = load_init(f"{example}:mean_colour", NAMED_INITS, 256, 5).facts
    example.write_text(example.read_text() + "# changed\n")
    assert load_init(f"{example}:mean_colour", NAMED_INITS, 256, 5).facts != before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{dir}/my_init.py:mean_color", "did you mean 'mean_colour'"),
        ("{dir}/missing.py:start", "no such file"),
        ("no_such_module:start", "cannot import 'no_such_module'"),
        ("{dir}/broken.py:start", "cannot import .*ZeroDivisionError"),
        ("{dir}/text.safetensors", "not a readable safetensors file"),
        ("{dir}", "text.safetensors: not a readable safetensors file"),
        ("{dir}/..", "no such file"),
    ],
)
def test_inits_that_cannot_be_had_are_one_clear_line(example, source, message):
    (example.parent / "broken.py").write_text("1 / 0\n")
    (example.parent / "text.safetensors").write_text("text")
    with pytest.raises(InputError, match=message) as error:
        load_init(source.format(dir=example.parent), NAMED_INITS, WIDTH, DEPTH)
    assert "\n" not in str(error.value)


# The command line

TINY = (
    *("--image-size", "16", "--width", "16", "--depth", "2", "--budgets-epochs", "1,2"),
    *("--lrs", "1e-3,3e-3", "--lr-images", "2", "--batch-pixels", "64", "--seeds", "1"),
    *("--threads", "1"),
)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    """A tiny benchmark's arguments: test images of a directory, tuning images from files."""
    for k in range(4):
        folder = tmp_path / ("test" if k < 2 else "tuning")
        folder.mkdir(exist_ok=True)
        save_image(smooth_image(20, k), folder / f"{k}.png")

    def arguments(*more: str) -> list[str]:
        tuning = [str(tmp_path / "tuning" / f"{k}.png") for k in (2, 3)]
        images = ["--images", str(tmp_path / "test"), "--tuning-images", *tuning]
        return [*images, *TINY, "--out", str(tmp_path / "r.jsonl"), *more]

    return arguments


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_records_and_a_chart(command, tmp_path, capsys):
    assert script.main(command()) == 0
    out = capsys.readouterr().out
    for name in ("paper", "22", "33"):
        assert f"\n| {name} | " in out
    assert {one.image for one in read_records(tmp_path / "r.jsonl")} == {
        *("0.png", "1.png", "2.png", "3.png")
    }
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert script.main(command("--verify", "3")) == 0
    assert "3/3 equal" in capsys.readouterr().out


def test_a_dry_run_writes_nothing(command, tmp_path, capsys):
    assert script.main(command("--dry-run")) == 0
    told = capsys.readouterr().out
    assert "at most" in told and "r.jsonl" in told
    assert script.main(command("--dry-run", "--quiet")) == 0
    assert "at most" in capsys.readouterr().out
    assert script.main(command("--dry-run", "--quiet", "--json")) == 0
    assert "at most" in json.loads(capsys.readouterr().out)["text"]
    assert {path.name for path in tmp_path.iterdir()} == {"test", "tuning"}


def test_settings_of_no_account_are_named(command, capsys):
    for track, said in (
        ("tuned", ""),
        ("seed", "--tuning-images, --lrs, --lr-images"),
        ("published", "--tuning-images, --lrs, --lr-images, --batch-pixels"),
    ):
        own = command("--track", track, "--dry-run", "--inits", "33", "--image-size", "16")
        own += ["--budgets-epochs", "2"]
        assert script.main(own) == 0
        told = [line for line in capsys.readouterr().err.splitlines() if "ignored in" in line]
        assert told == ([f"ignored in the {track} track: {said}"] if said else [])


def test_a_track_along_a_curve_counts_the_one_budget_that_it_runs(command, capsys):
    """It ran the largest alone, said that it runs all, and its progress never came to the end."""
    how = ("--track", "seed", "--dry-run", "--inits", "33", "--image-size", "16", "--seeds", "1")
    assert script.main(command(*how, "--budgets-epochs", "2,3")) == 0
    told = capsys.readouterr()
    assert "budgets 3 epochs; at most 6 epochs" in told.out
    assert "--lr-images, --budgets-epochs but for the largest" in told.err
    assert script.main(command(*how, "--budgets-epochs", "3")) == 0
    assert "budgets-epochs" not in capsys.readouterr().err
    protocol = replace(PROTOCOL, budgets_epochs=(2, 3))
    assert make_plan("seed", protocol=protocol).total_epochs == 2 * 2 * 3  # inits, images


def test_the_names_that_can_be_used_are_listed(capsys):
    assert script.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert "paper" in out and "38 all-rows" in out and "builtin" in out


def test_all_rows_are_the_distinct_ones(command, capsys):
    assert script.main(command("--inits", "all-rows", "--dry-run")) == 0
    tuned = capsys.readouterr().out.splitlines()[0].split(": inits ")[1].split(", ")
    assert len(tuned) == 34 and "34" not in tuned and "26" not in tuned
    assert script.main(command("--inits", "all-rows", "--track", "seed", "--dry-run")) == 0
    seed = capsys.readouterr().out.splitlines()[0].split(": inits ")[1].split(", ")
    assert set(seed) - set(tuned) == {"26"}  # differs from 23 in its weight decay


@pytest.mark.slow
def test_the_seed_track_has_each_rows_weight_decay(command, tmp_path):
    arguments = ["--inits", "26", "33", "--track", "seed", "--limit", "1"]
    assert script.main(command(*arguments, "--output-lr-factor", "1")) == 0
    found = {one.init: one.settings["weight_decay"] for one in read_records(tmp_path / "r.jsonl")}
    assert found == {"26": 0.0, "33": 0.01}


@pytest.mark.slow
def test_frozen_layers_is_a_track_and_a_script_of_its_own(command, tmp_path, capsys):
    assert main(["benchmark", "--track", "frozen", *command("--limit", "1")]) == 0
    assert "33 frozen 0,1" in capsys.readouterr().out
    assert (tmp_path / "r.png").exists()
    assert frozen_layers.main(command("--limit", "1", "--verify", "1")) == 0  # the same trials


@pytest.mark.slow
def test_a_chart_that_cannot_be_written_loses_no_records(command, tmp_path, capsys):
    (tmp_path / "r.png").mkdir()
    assert script.main(command("--inits", "33", "--limit", "1")) == 0
    assert "without a chart: cannot write" in capsys.readouterr().err
    assert read_records(tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inits", "papr"], "did you mean 'paper'"),
        (["--images", "no/such/dir"], "no such directory"),
        (["--imges", "x"], "did you mean '--images'"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--seeds", "0"], "seeds must be at least 1"),
        (["--fit", "sampler=points"], "--fit is for the open track"),
        (["--track", "open", "--fit", "lr=1"], "set by the protocol"),
        (["--track", "open", "--fit", "eval_pixels=1"], "set by the protocol"),
        (["--track", "open", "--fit", "stop_mse=1"], "set by the protocol"),
        (["--track", "open", "--fit", "sampler"], "--fit takes K=V"),
        (
            ["--track", "open", "--fit", "samplr=points"],
            "--fit: unknown key 'samplr' (did you mean 'sampler'?)",
        ),
        (["--stop-mse", "1"], "--stop-mse is for the seed track"),
        (["--lr", "1e-4"], "--lr is for the seed track"),
        (["--track", "seed", "--lr", "0"], "--lr must be a positive number"),
        (["--quick", "--preset", "small"], "--quick is a preset"),
        (["--lr-images", "99"], "tuned on 99 images, not 10: give 99 with --tuning-images"),
        (["--device", "warp"], "device warp cannot be used"),
        (["--out", "no/such/dir/r.jsonl"], "cannot write"),
        (["--verify", "1"], "no such record file"),
    ],
)
def test_bad_command_lines_are_one_line_and_exit_code_2(command, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main(command(*arguments))
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if "error: " in line]
    assert stopped.value.code == 2 and len(errors) == 1 and errors[0] == lines[-1]
    assert message in errors[0]


def test_an_image_directory_without_images_is_refused(command, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        script.main(command("--images", str(tmp_path / "empty")))
    assert "no usable image" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(command, monkeypatch, capsys):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trial, "run", interrupt)
    assert script.main(command()) == 130
    assert "continues from there" in capsys.readouterr().err


OWN_MODULES = {
    "facts_of_mine.py": """
import os, torch, json as _json
from helper_of_mine import make

def start(image, seed, width, depth):
    from pack_of_mine.late import LATE
    return make(seed, width, depth)
""",
    "helper_of_mine.py": """
import torch
from hyperinit import named_init, sample_params
from pack_of_mine import late

def make(seed, width, depth):
    spec = named_init("33")
    generator = torch.Generator().manual_seed(seed)
    return sample_params(spec, spec.siren_config(width, depth), generator=generator)
""",
    "pack_of_mine/__init__.py": "",
    "pack_of_mine/late.py": "from . import deep\nLATE = 1\n",
    "pack_of_mine/deep.py": "X = 1\ndef late():\n    import broken_of_mine, raises_of_mine.x\n",
    "broken_of_mine.py": "x = (",
    "raises_of_mine/__init__.py": "raise SystemExit('not now')",
}


def test_records_know_the_modules_that_a_function_imports(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pack_of_mine").mkdir()
    (tmp_path / "raises_of_mine").mkdir()
    for name, text in OWN_MODULES.items():
        (tmp_path / name).write_text(text)
    source = f"{tmp_path}/facts_of_mine.py:start"
    facts = callable_init(source, 16, 2).facts
    assert list(facts["imports"]) == [
        *("broken_of_mine", "helper_of_mine", "pack_of_mine", "pack_of_mine.deep"),
        *("pack_of_mine.late", "raises_of_mine"),
    ]
    assert callable_init("facts_of_mine:start", 16, 2).facts == facts
    with (tmp_path / "pack_of_mine/deep.py").open("a") as file:
        file.write("X = 2\n")
    changed = callable_init(source, 16, 2).facts
    assert changed["sha256"] == facts["sha256"]
    differing = {name for name, own in facts["imports"].items() if changed["imports"][name] != own}
    assert differing == {"pack_of_mine.deep"}
    # One that imports nothing of one's own is what it was in records of before.
    (tmp_path / "alone_of_mine.py").write_text("import torch\ndef start(image, seed): pass\n")
    assert set(callable_init(f"{tmp_path}/alone_of_mine.py:start").facts) == {"function", "sha256"}
