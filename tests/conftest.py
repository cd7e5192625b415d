"""Shared fixtures: small networks and images, made on the spot."""

from __future__ import annotations

import signal

import pytest
import torch
from torch import Tensor

from hyperinit.hypernet.network import HyperConfig, HyperNetwork
from hyperinit.inits.rules import named_init
from hyperinit.inits.start import Init
from hyperinit.siren.network import Params

torch.set_num_threads(1)

# A shell's background jobs ignore Ctrl-C, and those of nohup SIGHUP, and so would the tests that
# send them and the processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is too long for the gate is too slow for the fast suite."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)


def fit_init(name: str, width: int, depth: int) -> Init:
    """The init that `hyperinit fit` knows by a name."""
    from hyperinit.bench.catalogue import inits_for_fit
    from hyperinit.bench.sources import load_init

    return load_init(name, inits_for_fit(name), width, depth)


def smooth_image(size: int = 16, seed: int = 0) -> Tensor:
    """A low-frequency image (3, size, size) in [0, 1] that a tiny SIREN can fit."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0]


def tiny_hyper(inner_steps: int = 2, seed: int = 0, normalized: bool = False) -> HyperNetwork:
    """An untrained hypernetwork for a SIREN of width 16, depth 2."""
    config = HyperConfig(
        siren=named_init("33").siren_config(16, 2),
        encoder_size=8,
        channels=4,
        code_size=16,
        rank=2,
        inner_steps=inner_steps,
        inner_pixels=32,
        normalized_steps=normalized,
    )
    return HyperNetwork.from_named_init(config, "33", seed)


def shake_heads(hyper: HyperNetwork, std: float = 0.05, seed: int = 1) -> HyperNetwork:
    """Gives the heads, which start at zero, something to say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head in hyper.heads:
            head.left.weight.normal_(0, std, generator=generator)
    return hyper


def assert_same(a: Params, b: Params, tolerance: float = 0.0) -> None:
    """Both have the same config, names and values."""
    assert a.config == b.config and list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


@pytest.fixture
def image() -> Tensor:
    return smooth_image()
