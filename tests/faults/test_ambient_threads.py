"""Threads that compute at a time leave the process as it was, and each computes as it should."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import smooth_image
from PIL import ImageFile
from test_ambient_images import default_float64, low_precision_products

from hyperinit.base.errors import InputError
from hyperinit.images import decode
from hyperinit.images.decode import load_image
from hyperinit.images.save import save_image
from hyperinit.inits import start
from hyperinit.inits.rules import named_init
from hyperinit.inits.start import Init, Start, spec_init
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


def while_a_thread_is_inside(block, check: Callable[[], bool]) -> bool:
    """What a process finds that is forked while another thread is inside a block."""
    inside, done = threading.Event(), threading.Event()

    def work() -> None:
        with block():
            inside.set()
            done.wait(20)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if not child:
        signal.alarm(10)  # ends it if it waits for the other thread, which it does not have
        ended = 1
        try:
            ended = 0 if check() else 1
        finally:
            os._exit(ended)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join()
    return status == 0


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@needs_fork
@pytest.mark.parametrize("surroundings", [default_float64, low_precision_products])
def test_a_process_forked_on_the_way_has_the_settings_of_the_process(surroundings):
    with surroundings():
        before = torch.get_default_dtype(), torch.get_float32_matmul_precision()

        def check() -> bool:
            with own_settings():
                inside = torch.get_default_dtype(), torch.get_float32_matmul_precision()
            after = torch.get_default_dtype(), torch.get_float32_matmul_precision()
            return inside == (torch.float32, "highest") and after == before

        assert while_a_thread_is_inside(own_settings, check)


@needs_fork
def test_a_process_forked_while_a_start_is_made_makes_its_own():
    image = torch.zeros(3, 4, 4)
    drawn = spec_init("33", named_init("33"), 4, 1)

    @contextlib.contextmanager
    def starting():
        with start._starting:
            yield

    assert while_a_thread_is_inside(starting, lambda: isinstance(drawn.start(image, 0), Start))


@needs_fork
def test_a_process_forked_while_an_image_is_decoded_refuses_truncated_ones(tmp_path, monkeypatch):
    save_image(smooth_image(64), tmp_path / "half.png")
    os.truncate(tmp_path / "half.png", 1000)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)

    def check() -> bool:
        with pytest.raises(InputError, match="unreadable"):
            load_image(tmp_path / "half.png")
        return ImageFile.LOAD_TRUNCATED_IMAGES is True  # theirs again

    assert while_a_thread_is_inside(lambda: decode._whole_files_only, check)


def make(image, seed):
    """An init of a user."""
    return spec_init("33", named_init("33"), 4, 1).start(image, seed).params


def test_an_init_can_be_sent_to_another_process():
    sent = pickle.loads(pickle.dumps(Init("mine", make)))
    assert sent.start(torch.zeros(3, 4, 4), 0).epochs == 0
