"""Threads that compute at a time leave the process as it was, and each computes as it should."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_ambient_images import default_float64, low_precision_products

from hyperinit.siren.ambient import own_settings, products_of


def overlapping(*blocks) -> list:
    """Each block in a thread: all are entered, then left in the order they were entered in."""
    turns = [threading.Event() for _ in range(2 * len(blocks))]

    def work(number, block):
        turns[number].wait(10)
        with block():
            turns[number + 1].set()  # the next one enters; after the last, the first one leaves
            turns[len(blocks) + number].wait(10)
            seen = torch.get_default_dtype(), torch.get_float32_matmul_precision()
        if len(blocks) + number + 1 < len(turns):
            turns[len(blocks) + number + 1].set()
        return seen

    with ThreadPoolExecutor(len(blocks)) as pool:
        found = [pool.submit(work, number, block) for number, block in enumerate(blocks)]
        turns[0].set()
        return [future.result(20) for future in found]


@pytest.mark.parametrize("surroundings", [default_float64, low_precision_products])
def test_blocks_that_overlap_leave_the_settings_of_the_process(surroundings):
    with surroundings():
        before = torch.get_default_dtype(), torch.get_float32_matmul_precision()
        assert (
            overlapping(own_settings, own_settings, own_settings)
            == [(torch.float32, "highest")] * 3
        )
        assert (torch.get_default_dtype(), torch.get_float32_matmul_precision()) == before


def test_products_that_may_be_rounded_in_one_thread_are_exact_while_another_measures():
    rounded = lambda: products_of("high")  # noqa: E731
    found = [precision for _, precision in overlapping(rounded, own_settings, rounded)]
    assert found == ["highest", "highest", "high"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_nested_blocks_each_have_their_own_precision():
    seen = []

    def note() -> None:
        seen.append(torch.get_float32_matmul_precision())

    with low_precision_products():
        with own_settings():
            note()
            with products_of("high"):
                note()
                with own_settings(), products_of("highest"):
                    note()
                note()
            note()
        note()
    assert seen == ["highest", "high", "highest", "high", "highest", "medium"]


def test_a_block_that_fails_leaves_the_settings_of_the_process():
    with default_float64():
        with pytest.raises(ValueError, match="on the way"), own_settings():
            raise ValueError("on the way")
        assert torch.get_default_dtype() == torch.float64
