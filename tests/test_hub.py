"""Trained inits in folders and on the Hub: what comes back is what went, hashes and all."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import assert_same, shake_heads, smooth_image, tiny_hyper

import hyperinit
from hyperinit import HyperNetwork, InputError, LearnedInit, from_pretrained
from hyperinit.bench.sources import BY_NAME, load_init
from hyperinit.hypernet.hub import model_card
from hyperinit.hypernet.learned import LearnedConfig
from hyperinit.hypernet.pretrained import load_trained, pretrained_path
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.learn.state import TrainState, save_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.siren.store import CHECKPOINT_NAME, file_kind, read_info, tensors_hash


def run_directory(folder: Path, **info) -> Path:
    """As a training run leaves it: with an optimiser, paths, and hashes."""
    state = TrainState(HYPERNETWORK, shake_heads(tiny_hyper()), torch.optim.AdamW([torch.zeros(1)]))
    folder.mkdir()
    config = TrainConfig(size=24, data=str(folder))
    save_state(folder / CHECKPOINT_NAME, state, config, train_hashes=["abc", "def"], **info)
    compared(folder, "comparison", tensors_hash(state.model.state_dict()), "0.01")
    return folder


def compared(folder: Path, name: str, sha256: str, mse: str) -> None:
    """As a training run compares the parameters that have this hash."""
    (folder / f"{name}.jsonl").write_text(json.dumps({"init_facts": {"sha256": sha256}}) + "\n")
    (folder / f"{name}.md").write_text(f"| init | MSE |\n| --- | --- |\n| hyper | {mse} |\n")


def linear() -> LearnedInit:
    siren = named_init("33").siren_config(16, 2)
    base = sample_params(named_init("33"), siren, generator=torch.Generator().manual_seed(0))
    return LearnedInit(LearnedConfig(siren, read_numbers=3), base)


def test_a_run_saved_in_a_folder_opens_as_it_was_without_paths_and_with_its_hashes(tmp_path):
    run = run_directory(tmp_path / "run")
    model = hyperinit.load(run)
    model.save_pretrained(tmp_path / "shared" / "mine")
    folder = tmp_path / "shared" / "mine"
    assert {path.name for path in folder.iterdir()} == {CHECKPOINT_NAME, "README.md"}
    opened = HyperNetwork.from_pretrained(folder)
    assert_same(opened.generate(smooth_image()), model.generate(smooth_image()))
    info = read_info(folder / CHECKPOINT_NAME, HyperNetwork.kind)
    assert info["train_hashes"] == ["abc", "def"] and info["train"] == {"size": 24}
    assert str(tmp_path) not in json.dumps(info)
    # It can be given wherever a run directory can, and the benchmark knows what it was trained on.
    init = load_init(str(folder), BY_NAME, 16, 2)
    assert init.train_hashes == {"abc", "def"} and init.name == "mine"


def test_the_card_says_what_the_file_is_and_what_was_measured(tmp_path):
    model = hyperinit.load(run_directory(tmp_path / "run", commit="1234abc"))
    model.save_pretrained(tmp_path / "mine", results="| a | b |\n| --- | --- |\n| 1 | 2 |")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: hyperinit\n") and "\n# mine\n" in card
    assert "SIREN of 2 x 16" in card and "24 x 24 pixels" in card and "1234abc" in card
    assert "2 photographs, whose hashes" in card
    assert "| hyper | 0.01 |" in card and "| 1 | 2 |" in card  # of the run, and of the user
    # Opened and shared again, the card stays as it is, even if a person has written in it.
    text = card + "\nMine.\n"
    (tmp_path / "mine" / "README.md").write_text(text)
    from_pretrained(tmp_path / "mine").save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == text


def test_the_card_of_a_run_that_has_gone_on_has_its_last_comparison(tmp_path):
    run = run_directory(tmp_path / "run")
    model = hyperinit.load(run)
    own = tensors_hash(model.state_dict())
    compared(run, "comparison", "of fewer steps", "0.04")
    assert "Results" not in model_card(model, "mine")
    compared(run, "comparison-2", own, "0.03")
    compared(run, "comparison-3", own, "0.02")
    compared(run, "comparison-4", own, "0.01")
    (run / "comparison-4.md").unlink()  # the process was killed before it wrote the table
    card = model_card(model, "mine")
    assert "| hyper | 0.02 |" in card and card.count("| hyper |") == 1


def test_what_comes_with_the_package_is_shared_with_its_own_card(tmp_path):
    model = from_pretrained("linear-96")
    assert isinstance(model, LearnedInit)
    model.save_pretrained(tmp_path / "mine")
    own = pretrained_path("linear-96").with_suffix(".md").read_text(encoding="utf-8")
    assert own in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    opened, info = load_trained(tmp_path / "mine")
    assert len(info["train_hashes"]) > 1000
    assert torch.equal(opened.reader, model.reader)


def test_a_learned_init_made_in_python_goes_and_comes_and_says_that_nothing_is_known(tmp_path):
    model = linear()
    model.save_pretrained(tmp_path)
    assert "does not say what it was trained on" in (tmp_path / "README.md").read_text()
    opened = LearnedInit.from_pretrained(tmp_path)
    assert_same(opened.generate(smooth_image()), model.generate(smooth_image()))
    with pytest.raises(InputError, match="is a LearnedInit, not a HyperNetwork"):
        HyperNetwork.from_pretrained(tmp_path)


def test_nothing_is_overwritten_that_is_not_ours_and_no_damaged_file_is_opened(tmp_path):
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(InputError, match="is not a model card of ours"):
        linear().save_pretrained(tmp_path)
    assert not (tmp_path / CHECKPOINT_NAME).exists()
    linear().save_pretrained(tmp_path / "mine")
    path = tmp_path / "mine" / CHECKPOINT_NAME
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="checksum does not match"):
        from_pretrained(tmp_path / "mine")


class Hub:
    """A Hub in a folder: what HfApi and hf_hub_download do with it."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def HfApi(self, token=None):
        return self

    def create_repo(self, repo_id, *, private, exist_ok):
        assert exist_ok
        (self.top / repo_id).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, repo_id, folder_path, commit_message, revision):
        shutil.copytree(folder_path, self.top / repo_id, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"hub/{repo_id}")

    def hf_hub_download(self, repo_id, filename, **options):
        path = self.top / repo_id / filename
        if not path.exists():
            raise RuntimeError("404\nRepository Not Found")
        return str(path)


def test_what_is_pushed_can_be_fetched_by_python_and_by_commands(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(tmp_path / "hub"))
    model = hyperinit.load(run_directory(tmp_path / "run"))
    assert model.push_to_hub("me/tiny") == "hub/me/tiny"
    assert "\n# me/tiny\n" in (tmp_path / "hub" / "me" / "tiny" / "README.md").read_text()
    opened = from_pretrained("me/tiny", revision="main")
    assert_same(opened.generate(smooth_image()), model.generate(smooth_image()))
    init = load_init("hub:me/tiny@v1", BY_NAME, 16, 2)
    assert init.name == "hub:me/tiny@v1" and init.train_hashes == {"abc", "def"}
    with pytest.raises(InputError, match=r"^me/other: cannot be fetched \(404 Repository Not Fou"):
        from_pretrained("me/other")
    with pytest.raises(InputError, match="not the OWNER/NAME"):
        from_pretrained("nowhere")
    with pytest.raises(InputError, match="not the OWNER/NAME"):
        model.push_to_hub("../../etc")


def test_huggingface_hub_itself_finds_what_its_cache_has_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
    repo = tmp_path / "models--me--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    linear().save_pretrained(repo / "snapshots" / commit)
    opened = from_pretrained("me/tiny", cache_dir=tmp_path, local_files_only=True)
    assert file_kind(repo / "snapshots" / commit / CHECKPOINT_NAME) == opened.kind
    assert_same(opened.generate(smooth_image()), linear().generate(smooth_image()))
    with pytest.raises(InputError, match=r"^me/none: cannot be fetched"):
        from_pretrained("me/none", cache_dir=tmp_path, local_files_only=True)
