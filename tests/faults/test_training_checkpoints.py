"""Checkpoints with a valid checksum around absurd facts: one line, in bounded memory and time."""

from __future__ import annotations

import copy
import resource

import pytest
import torch

from hyperinit.base.errors import InputError
from hyperinit.hypernet.checkpoint import CHECKPOINT_KIND, load_hypernetwork
from hyperinit.hypernet.learned import load_learned
from hyperinit.learn.reptile import PRESETS, REPTILE, ReptileConfig
from hyperinit.learn.state import load_state, new_state, save_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.siren.store import load_tensors, save_tensors

TINY = TrainConfig(
    **{"size": 16, "width": 16, "depth": 2, "encoder_size": 8, "channels": 4, "code_size": 16},
    **{"rank": 2, "inner_steps": 2, "inner_pixels": 32, "query_pixels": 32},
)
SEED_OF_23_DIGITS = 12345678901234567890123


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Tensors and facts of a good checkpoint of each kind."""
    folder = tmp_path_factory.mktemp("good")
    state = new_state(HYPERNETWORK, TINY)
    sum(value.sum() for value in state.model.parameters()).backward()
    state.optimizer.step()
    save_state(folder / "hyper", state, TINY, train_hashes=["a"])
    reptile = ReptileConfig(**PRESETS["tiny"])
    save_state(folder / "reptile", new_state(REPTILE, reptile), reptile, train_hashes=["a"])
    return {
        "hyper": load_tensors(folder / "hyper", CHECKPOINT_KIND),
        "reptile": load_tensors(folder / "reptile", REPTILE.kind),
    }


def changed(facts, path, value):
    """Facts with one entry, named by a dotted path, replaced, or removed for ..."""
    facts = copy.deepcopy(facts)
    *parents, last = path.split(".")
    inner = facts
    for name in parents:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return facts


@pytest.fixture(autouse=True)
def bounded_memory():
    """Absurd sizes would otherwise be found out by the machine."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (2**32, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("hypernetwork", ...),
        ("hypernetwork", 3),
        ("hypernetwork", [["siren", 1]]),
        ("hypernetwork.siren", "5 x 256"),
        ("hypernetwork.siren.depth", 10**9),
        ("hypernetwork.siren.depth", 2**24),
        ("hypernetwork.siren.depth", 10**30),
        ("hypernetwork.siren.depth", 2.5),
        ("hypernetwork.siren.width", 10**9),
        ("hypernetwork.siren.width", True),
        ("hypernetwork.siren.omega_0", "30"),
        ("hypernetwork.siren.omega_0", float("nan")),
        ("hypernetwork.siren.colour", 1),
        ("hypernetwork.inner_steps", -1),
        ("hypernetwork.inner_steps", 10**9),
        ("hypernetwork.inner_pixels", -5),
        ("hypernetwork.inner_pixels", None),
        ("hypernetwork.encoder_size", 8 * 10**9),
        ("hypernetwork.encoder_size", 2**24),
        ("hypernetwork.channels", 2**24),
        ("hypernetwork.rank", 10**9),
        ("hypernetwork.code_size", 2**24),
        ("hypernetwork.lr_factor", -1.0),
        ("hypernetwork.lr_factor", "fast"),
        ("hypernetwork.normalized_steps", "yes"),
        ("hypernetwork.extra", 1),
    ],
)
def test_a_hypernetwork_with_absurd_facts_is_one_line(tmp_path, saved, entry, value):
    tensors, facts = saved["hyper"]
    path = tmp_path / "hostile.safetensors"
    save_tensors(path, tensors, CHECKPOINT_KIND, changed(facts, entry, value))
    for load in (load_hypernetwork, lambda path: load_state(path, HYPERNETWORK)):
        with pytest.raises(InputError, match=r"hostile\.safetensors") as error:
            load(path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("learned.siren.depth", 10**9),
        ("learned.heads", 10**9),
        ("learned.heads", -1),
        ("learned.inner_steps", 10**9),
        ("learned.inner_lr", "small"),
        ("learned.lr_factor", 0),
        ("learned.modulation", {}),
        ("learned.modulation", "columns"),
        (
            "learned.modulation",
            {
                **{"kind": "columns", "image_size": 2**24, "patch_size": 1, "weight_tokens": 4},
                **{"token_size": 2**24, "transformer_layers": 10**9, "attention_heads": 1},
            },
        ),
    ],
)
def test_a_learned_init_with_absurd_facts_is_one_line(tmp_path, saved, entry, value):
    tensors, facts = saved["reptile"]
    path = tmp_path / "hostile.safetensors"
    save_tensors(path, tensors, REPTILE.kind, changed(facts, entry, value))
    with pytest.raises(InputError, match=r"hostile\.safetensors") as error:
        load_learned(path)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("train", ...),
        ("train", [1]),
        ("train.seed", SEED_OF_23_DIGITS),
        ("train.seed", -1),
        ("train.width", 10**9),
        ("train.width", 32),
        ("train.size", 10**9),
        ("train.batch_images", 10**12),
        ("train.query_pixels", 10**12),
        ("train.threads", -2),
        ("train.max_steps", "many"),
        ("train.data_limit", -4),
        ("step", ...),
        ("step", -1),
        ("step", 1.5),
        ("step", "3"),
        ("train_sec", float("inf")),
        ("usual_norm", float("nan")),
        ("skipped_in_a_row", None),
        ("train_hashes", "abc"),
        ("train_hashes", [1]),
        ("held_out_hashes", 3),
        ("unlogged", 3),
        ("unlogged", {"train/loss": "low"}),
        ("held_out_hashes", [None]),
    ],
)
def test_a_run_with_absurd_facts_is_not_resumed_but_says_why(tmp_path, saved, entry, value):
    tensors, facts = saved["hyper"]
    path = tmp_path / "hostile.safetensors"
    save_tensors(path, tensors, CHECKPOINT_KIND, changed(facts, entry, value))
    with pytest.raises(InputError, match=r"hostile\.safetensors") as error:
        load_state(path, HYPERNETWORK)
    assert "\n" not in str(error.value)
    assert load_hypernetwork(path)[0] is not None  # the network itself is sound


@pytest.mark.parametrize("change", ["nan", "missing", "shape", "optimiser shape", "optimiser key"])
def test_tensors_that_cannot_be_used_are_one_line(tmp_path, saved, change):
    tensors, facts = saved["hyper"]
    tensors, path = dict(tensors), tmp_path / "hostile.safetensors"
    name = "hyper/encoder.layers.0.bias"
    moment = next(key for key in tensors if key.endswith("/exp_avg"))
    if change == "nan":
        tensors[name] = torch.full_like(tensors[name], float("nan"))
    elif change == "missing":
        del tensors[name]
    elif change == "shape":
        tensors[name] = tensors[name][:2]
    elif change == "optimiser shape":
        tensors[moment] = torch.zeros(3, 5, 7)
    else:
        tensors[moment.replace("exp_avg", "velocity")] = tensors.pop(moment)
    save_tensors(path, tensors, CHECKPOINT_KIND, facts)
    with pytest.raises(InputError, match=r"hostile\.safetensors"):
        load_state(path, HYPERNETWORK)


def test_the_good_ones_are_read(tmp_path, saved):
    for name, task in (("hyper", HYPERNETWORK), ("reptile", REPTILE)):
        tensors, facts = saved[name]
        save_tensors(tmp_path / name, tensors, task.kind, facts)
        state, _, info = load_state(tmp_path / name, task)
        assert info["train_hashes"] == ["a"] and state.model.training


def test_a_checkpoint_of_hundreds_of_thousands_of_images_is_read(tmp_path, saved):
    tensors, facts = saved["hyper"]
    hashes = [f"{number:064x}" for number in range(260_000)]
    save_tensors(tmp_path / "many", tensors, CHECKPOINT_KIND, {**facts, "train_hashes": hashes})
    assert load_state(tmp_path / "many", HYPERNETWORK)[2]["train_hashes"] == hashes


def test_more_images_than_a_checkpoint_can_name_are_refused_when_it_is_written(tmp_path, saved):
    tensors, facts = saved["hyper"]
    hashes = ["0" * 64] * 1_500_000
    with pytest.raises(InputError, match=r"more than a file can hold.*train on fewer"):
        save_tensors(tmp_path / "most", tensors, CHECKPOINT_KIND, {**facts, "train_hashes": hashes})
