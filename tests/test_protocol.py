"""Records survive what happens to files, and a target's cost is what the protocol says."""

from __future__ import annotations

import json
from math import inf, isnan, nan, sqrt

import pytest
from records import record

from hyperinit.app.benchmark import chart_of
from hyperinit.base.errors import InputError
from hyperinit.bench.declared import plans_path
from hyperinit.record.protocol import PROTOCOL_VERSION, PROTOCOLS, VERSIONS, Protocol
from hyperinit.record.records import append_record, read_records, to_line
from hyperinit.record.thumbnails import folder_of
from hyperinit.score.costs import cost_to_target


def test_a_target_counts_when_it_is_reached_exactly():
    assert cost_to_target([0, 1, 2], [1.0, 0.1, 8e-4], 8e-4) == 2


def test_between_two_rungs_the_cost_is_interpolated_in_logarithms():
    assert cost_to_target([1, 2, 8], [1.0, 0.1, 0.001], 0.01) == pytest.approx(4)
    assert cost_to_target([1, 4], [1.0, 0.01], 0.1) == pytest.approx(2)


def test_a_target_no_rung_reaches_costs_infinitely_much():
    assert cost_to_target([0, 1, 2], [1.0, 0.1, 0.01], 8e-4) == inf
    assert cost_to_target([0, 1], [1.0, nan], 0.5) == inf


def test_nothing_is_interpolated_from_a_free_or_a_diverged_run():
    assert cost_to_target([0, 0.5], [1.0, 0.01], 0.1) == 0.5
    assert cost_to_target([1, 2], [inf, 0.01], 0.1) == 2


def test_a_start_that_is_good_enough_costs_what_it_cost():
    assert cost_to_target([0.3, 1], [0.05, 0.01], 0.08) == 0.3


def test_a_start_that_cost_something_is_interpolated_from():
    assert cost_to_target([0.25, 1], [1.0, 0.01], 0.1) == pytest.approx(sqrt(0.25))


def test_the_first_rung_that_reaches_the_target_counts():
    assert cost_to_target([1, 2, 4], [0.1, 1e-4, 1.0], 1e-4) == 2


def test_records_come_back_as_they_were_written(tmp_path):
    written = [record(), record(mse=inf, seed=1), record(lr=1e-3)]
    for one in written:
        append_record(tmp_path / "r.jsonl", one)
    read = read_records(tmp_path / "r.jsonl")
    assert [one.trial for one in read] == [one.trial for one in written]
    assert [one.mse for one in read] == [0.01, inf, 0.01]
    assert read[0].curve[1] == written[0].curve[1]


def test_files_are_plain_json_without_infinities(tmp_path):
    append_record(tmp_path / "r.jsonl", record(mse=inf))
    line = (tmp_path / "r.jsonl").read_text()
    curve = json.loads(line, parse_constant=pytest.fail)["curve"]
    assert curve[-1][3] is None


def test_a_run_killed_in_mid_line_loses_that_line_only(tmp_path):
    path = tmp_path / "r.jsonl"
    append_record(path, record())
    with open(path, "a") as file:
        file.write(to_line(record(seed=1))[:100])
    assert [one.seed for one in read_records(path)] == [0]
    append_record(path, record(seed=2))
    assert [one.seed for one in read_records(path)] == [0, 2]


def test_a_last_line_that_only_lacks_its_newline_is_a_record(tmp_path):
    """As an editor leaves it: it was passed over, and cut off when the next one was written."""
    path = tmp_path / "r.jsonl"
    path.write_text(f"{to_line(record())}\n{to_line(record(seed=1))}")
    assert [one.seed for one in read_records(path)] == [0, 1]
    append_record(path, record(seed=2))
    assert [one.seed for one in read_records(path)] == [0, 1, 2]


def test_what_goes_with_a_record_file_is_that_file_s_own(tmp_path):
    """The plans, the chart and the pictures of "try.1" were those of "try.2" as well."""
    for way in (folder_of, plans_path, chart_of):
        assert len({way(tmp_path / name) for name in ("try.1", "try.2", "try.jsonl")}) == 3
        assert way(tmp_path / "a.b.jsonl").name.startswith("a.b.")


def test_a_trial_written_twice_counts_once(tmp_path):
    for path in ("a.jsonl", "b.jsonl"):
        append_record(tmp_path / path, record())
    assert len(read_records([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])) == 1


def test_records_of_another_protocol_version_are_refused_by_line(tmp_path):
    path = tmp_path / "r.jsonl"
    append_record(path, record())
    unknown = max(VERSIONS) + 1
    append_record(path, record(seed=1, version=unknown))
    with pytest.raises(InputError, match=rf"r\.jsonl:2: protocol version {unknown}"):
        read_records(path)


def test_records_of_both_known_versions_are_read_side_by_side(tmp_path):
    for version in VERSIONS:
        append_record(tmp_path / "r.jsonl", record(version=version))
    assert [one.version for one in read_records(tmp_path / "r.jsonl")] == [1, 2]


@pytest.mark.parametrize(
    "line", ["{}", "[1]", "not json", '{"version": 1}', "null", '{"version": 1, "curve": [[1]]}']
)
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    (tmp_path / "r.jsonl").write_text(f"{to_line(record())}\n{line}\n")
    with pytest.raises(InputError, match=r"r\.jsonl:2: "):
        read_records(tmp_path / "r.jsonl")


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "r.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a record file"):
        read_records(tmp_path / "r.jsonl")
    with pytest.raises(InputError, match="no such record file"):
        read_records(tmp_path / "missing.jsonl")


def test_everything_that_can_move_a_result_makes_another_trial():
    base = record()
    for change in (
        {"lr": 1e-3},
        {"budget": 2.0},
        {"seed": 1},
        {"image": "patio"},
        {"init": "22"},
        {"track": "open"},
        {"init_facts": {}},
        {"settings": {}},
        {"version": PROTOCOL_VERSION + 1},
    ):
        assert record(**change).trial != base.trial, change
    assert record(mse=0.5, environment={}).trial == base.trial


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_named_protocol_is_usable(name):
    assert Protocol(**PROTOCOLS[name]).version in VERSIONS


def test_the_seed_protocol_is_three_thousand_epochs_of_seven_steps():
    protocol = Protocol(**PROTOCOLS["seed"])
    steps = protocol.budgets_epochs[0] * protocol.image_size**2 / protocol.batch_pixels
    assert steps == pytest.approx(3000 * 7)


@pytest.mark.parametrize(
    "fields", [{"lrs": ()}, {"lrs": (0.0,)}, {"budgets_epochs": (1, 1)}, {"width": 0}]
)
def test_unusable_protocols_are_refused(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        Protocol(**fields)


def test_what_is_not_a_number_yet_is_read_as_infinite(tmp_path):
    append_record(tmp_path / "r.jsonl", record())
    assert isnan(record().start.train_mse)
    assert read_records(tmp_path / "r.jsonl")[0].start.train_mse == inf
