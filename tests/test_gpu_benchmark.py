"""The benchmark of a GPU: that it runs, compares and records; no seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend import pretended_gpu

from benchmarks import gpu

TINY = gpu.Sizes(side=16, width=16, depth=2, epochs=2.0, many=3, cpu_many=2, many_epochs=1.0)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "REHEARSAL", TINY)


def test_a_rehearsal_ends_in_tables_and_a_record(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "gpu.json"
    assert gpu.main(["--rehearse", "--threads", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert len(found["many"]["device"]["psnr"]) == 3 and len(found["many"]["cpu"]["psnr"]) == 2
    assert found["one"]["device"]["psnr"] == found["one"]["cpu"]["psnr"]
    assert set(found["one"]["device"]["level_sec"]) == {"30", "35", "40", "44"}
    shown = capsys.readouterr().out
    assert "| device, no graph | " in shown and "| device | 3 | " in shown


def test_results_that_disagree_are_named_and_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    whole = gpu.measure_one

    def measure_one(device: Any, sizes: Any, **options: Any) -> dict[str, Any]:
        found = whole(device, sizes, **options)
        calls.append(found)
        return found | {"psnr": found["psnr"] + 10 * (len(calls) == 1)}

    calls: list[Any] = []
    monkeypatch.setattr(gpu, "measure_one", measure_one)
    assert gpu.main(["--rehearse", "--threads", "1"]) == 1
    assert "more than 0.5 dB apart: one image: " in capsys.readouterr().out


def test_what_there_is_no_time_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = gpu.measure(torch.device("cpu"), TINY, 0.0)
    assert found["one"]["cpu"] and found["many"]["cpu"] and found["one"]["device, soap"] is None
    assert "not measured" in gpu.tables(found) and gpu.disagreements(found) == []


def test_the_page_has_the_committed_record() -> None:
    text, record = gpu.DOCUMENT.read_text(encoding="utf-8"), json.loads(gpu.RECORD.read_text())
    assert gpu.update_document(text, record) == text
    slower = {**record, "one": {**record["one"], "device": record["one"]["cpu"]}}
    assert gpu.update_document(text, slower) != text


def test_without_a_gpu_one_line_says_so(capsys: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit) as stopped:
        gpu.main([])
    assert stopped.value.code == 2 and "--device cuda cannot be used" in capsys.readouterr().err


@pytest.mark.slow
def test_its_rows_run_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("reset_peak_memory_stats", None), ("max_memory_allocated", 2**30)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    with pretended_gpu() as there:
        found = gpu.measure(torch.device("cuda"), TINY, 1e9)
        assert there.replays > 0
    assert gpu.disagreements(found) == [] and found["many"]["device"]["peak_gib"] == 1
