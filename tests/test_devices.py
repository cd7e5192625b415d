"""Everything runs where it is told to: on a GPU that is pretended, and on a real one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shake_heads, smooth_image, tiny_hyper
from pretend import Gpu, pretended_gpu

from hyperinit import FitConfig, fit, fit_to_target
from hyperinit.app.cli import main
from hyperinit.demo.race import race, race_config
from hyperinit.fitting import many
from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.lr_range import lr_range_test
from hyperinit.fitting.many import fit_many
from hyperinit.fitting.steps import FlatSteps, Parts, StaticSteps, batches_of, make_steps
from hyperinit.hypernet.learned import LearnedConfig, LearnedInit
from hyperinit.hypernet.modulation import ModulationConfig
from hyperinit.hypernet.untrained import untrained
from hyperinit.images.pixels import image_hash
from hyperinit.images.save import save_image, webp
from hyperinit.inits.rules import NAMED_INITS, PAPER_INIT, sample_params
from hyperinit.inits.start import Init, model_init, params_init, sized_init, spec_init
from hyperinit.learn.loop import train_step
from hyperinit.learn.reptile import PRESETS as REPTILE_PRESETS
from hyperinit.learn.reptile import REPTILE, ReptileConfig
from hyperinit.learn.state import new_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.siren import replay
from hyperinit.siren.network import Params, SirenConfig
from hyperinit.siren.replay import without_capture
from hyperinit.siren.signals import preview
from hyperinit.siren.store import load_siren, save_params
from hyperinit.stepping.engine import squared_errors
from hyperinit.stepping.watch import CollapseWatch
from scripts.catalogue import CATALOGUE

SIZE, WIDTH, DEPTH = 16, 16, 3
SHORT: dict[str, Any] = {"budget_epochs": 3, "batch_pixels": 32, "eval_epochs": (1,)}


@contextlib.contextmanager
def real_gpu() -> Iterator[None]:
    """On which nothing is counted."""
    yield


PLACES: dict[str, Callable[[], contextlib.AbstractContextManager[Gpu | None]]] = {
    "pretended": pretended_gpu,
    "cuda": real_gpu,
}
no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(params=["pretended", pytest.param("cuda", marks=no_cuda)])
def place(request: Any) -> Callable[[], contextlib.AbstractContextManager[Gpu | None]]:
    """A context in which "cuda" is a device."""
    return PLACES[request.param]


@pytest.fixture(autouse=True)
def the_same_sines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here as there: a fit of some optimizers and samplers makes much of the last bit."""
    monkeypatch.setattr("hyperinit.siren.sine.NUMPY_THREADS", 0)


def drawn(seed: int = 0) -> Params:
    spec = NAMED_INITS["identity"]
    generator = torch.Generator().manual_seed(seed)
    return sample_params(spec, spec.siren_config(WIDTH, DEPTH), generator=generator)


def on_gpu(params: Params) -> Params:
    return params.map(lambda value: value.to("cuda"))


def assert_near(there: FitResult, here: FitResult, rel: float = 2e-3) -> None:
    """A fit on the GPU, and the same fit on the CPU."""
    assert here.mse < here.curve[0].mse
    for a, b in zip(there.curve, here.curve, strict=True):
        assert (a.steps, a.epochs) == (b.steps, b.epochs)
        assert a.mse == pytest.approx(b.mse, rel=rel)


# The pretended GPU itself ------------------------------------------------------------------------


def test_a_tensor_left_on_the_cpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    image = smooth_image(SIZE)
    monkeypatch.setattr(
        "hyperinit.fitting.steps.image_coords", lambda image, dims: torch.zeros(SIZE * SIZE, 2)
    )
    with pretended_gpu(), pytest.raises(AssertionError, match="tensors of two devices"):
        fit(on_gpu(drawn()), image, **SHORT)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda there, here: there + here,
        lambda there, here: there[here.long()],
        lambda there, here: there.new_zeros(3) * torch.zeros(3),
        lambda there, here: (there * 2).numpy(),
        lambda there, here: torch.rand(3, device=there.device, generator=torch.Generator()),
        lambda there, here: there.normal_(generator=torch.Generator()),
        lambda there, here: torch.addmm(there[None], here[:, None], there[None].cpu()),
        lambda there, here: torch.nn.functional.mse_loss(there.requires_grad_(), here).backward(),
    ],
)
def test_what_fails_on_a_gpu_fails_on_the_pretended_one(mistake: Any) -> None:
    with pretended_gpu(), pytest.raises(AssertionError):
        mistake(torch.ones(3).to("cuda"), torch.ones(3))


def test_waits_are_counted_and_gradients_are_where_their_parameters_are() -> None:
    with pretended_gpu() as gpu:
        module = torch.nn.Linear(3, 2).to("cuda")
        x = torch.ones(4, 3, device="cuda")
        waits = gpu.waits
        loss = module(x).square().sum()
        loss.backward()
        assert gpu.waits == waits and module.weight.grad is not None
        assert module.weight.grad.device.type == "cuda" and x[x > 0].device == x.device
        assert gpu.waits == waits + 1  # how many are greater?
        float(loss.detach()), loss.cpu(), loss.tolist(), x.to("cpu")
        assert gpu.waits == waits + 5


def test_a_recorded_graph_does_what_was_recorded_and_no_more() -> None:
    with pretended_gpu() as gpu:
        number, total = torch.ones((), device="cuda"), torch.zeros((), device="cuda")
        factor = 2.0

        def add() -> None:
            total.add_((number * factor).square())

        again = replay.capture(add, total.device)
        assert float(total) == 0
        factor = 100.0  # a number of Python's is part of the graph
        number.fill_(3)  # one of the device's is not
        again()
        again()
        assert float(total) == 72 and gpu.replays == 2
        with pytest.raises(RuntimeError, match="not permitted"):
            replay.capture(lambda: total.fill_(float(number)), total.device)


# Every init ---------------------------------------------------------------------------------------


def learned(**options: Any) -> Init:
    siren = PAPER_INIT.siren_config(WIDTH, DEPTH)
    generator = torch.Generator().manual_seed(0)
    config = LearnedConfig(siren, **options)
    return model_init("learned", LearnedInit(config, drawn_as(siren), generator))


def drawn_as(siren: SirenConfig) -> Params:
    return sample_params(PAPER_INIT, siren, generator=torch.Generator().manual_seed(1))


def modulated(kind: str) -> Init:
    sizes = {"image_size": 8, "patch_size": 4, "token_size": 8, "attention_heads": 2}
    more = {"transformer_layers": 1, "weight_tokens": 4}
    return learned(modulation=ModulationConfig(kind=kind, **sizes, **more))  # type: ignore[arg-type]


INITS: dict[str, Callable[[], Init]] = {
    **{
        name: lambda name=name: spec_init(name, NAMED_INITS[name], WIDTH, DEPTH)  # type: ignore[misc]
        for name in NAMED_INITS
    },
    "sized": lambda: sized_init("sized", NAMED_INITS["identity"], WIDTH, DEPTH, 0.5),
    "untrained": lambda: untrained("untrained", WIDTH, DEPTH),
    "hyper": lambda: model_init("hyper", shake_heads(tiny_hyper())),
    "hyper-normalized": lambda: model_init("hyper", shake_heads(tiny_hyper(normalized=True))),
    "learned": learned,
    "strainer": lambda: learned(heads=2),
    "maml": lambda: learned(inner_steps=2, inner_pixels=16, learned_step_sizes=True, adapts=True),
    "transinr": lambda: modulated("columns"),
    "ipc": lambda: modulated("low-rank"),
    "stored": lambda: params_init("stored", drawn()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INITS)
def test_every_init_starts_where_the_image_is(name: str, place: Any) -> None:
    init, image = INITS[name](), smooth_image(SIZE)
    here = init.start(image, 3)
    with place():
        there = init.start(image.to("cuda"), 3)
        assert {value.device.type for value in there.params.values()} == {"cuda"}
        shown = preview(there.params, image.to("cuda"))
        assert shown.device.type == "cuda"
        found = {key: value.cpu() for key, value in there.params.items()}
        picture = shown.cpu()
    init.start(image, 3)  # and back again
    assert (there.epochs, there.lr_factor) == (here.epochs, here.lr_factor)
    for key, value in found.items():
        torch.testing.assert_close(value, here.params[key], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(picture, preview(here.params, image), rtol=0, atol=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUE.rules)
def test_every_rival_that_is_a_rule_starts_where_the_image_is(name: str, place: Any) -> None:
    rule = CATALOGUE.rules[name]
    with place():
        init = rule(name, WIDTH, DEPTH, None) if callable(rule) else INITS["paper"]()
        start = init.start(smooth_image(SIZE).to("cuda"), 0)
        assert start.params.device.type == "cuda"


# Every fit ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("together", [False, True], ids=["one", "three"])
@pytest.mark.parametrize("optimizer", ["nadam", "soap", "adamw"])
@pytest.mark.parametrize("sampler", ["credit", "pixels", "points", "residual"])
def test_every_fit_gives_there_what_it_gives_here(
    sampler: Any, optimizer: Any, together: bool, place: Any
) -> None:
    options = {**SHORT, "sampler": sampler, "optimizer": optimizer, "weight_decay": 0.01}
    if optimizer == "adamw":
        options["beta2"] = 0.999
    seeds = range(3) if together else [0]
    images = [smooth_image(SIZE, seed) for seed in seeds]
    here = fit_many([drawn(seed) for seed in seeds], images, **options)
    with place() as gpu:
        there = fit_many([on_gpu(drawn(seed)) for seed in seeds], images, **options)
        assert all(result.params.device.type == "cuda" for result in there)
        if gpu is not None:
            captured = sampler == "credit" and optimizer != "adamw"
            assert gpu.graphs == (2 if optimizer == "soap" else 1) * captured
            assert (gpu.replays > 0) == captured
    # On a real one sums round differently, and these steep little fits go their own ways soon.
    for one, other in zip(there, here, strict=True):
        assert_near(one, other, rel=2e-3 if gpu is not None else 5e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"hidden_dtype": "bfloat16"},
        {"frozen_layers": (0, 2)},
        {"frozen_layers": (0, 1, 2, 3)},
        {"engine": "auto", "schedule": "constant", "rising_rates": False},
        {"max_restarts": 0},
    ],
    ids=str,
)
def test_options_of_a_fit_do_there_what_they_do_here(options: Any, place: Any) -> None:
    image, options = smooth_image(SIZE), {**SHORT, **options}
    here = fit(drawn(), image, **options)
    with place():
        there = fit(on_gpu(drawn()), image, **options)
    for a, b in zip(there.curve, here.curve, strict=True):
        assert a.mse == pytest.approx(b.mse, rel=3e-2)


@pytest.mark.slow
def test_what_is_around_a_fit_runs_there(place: Any, tmp_path: Path) -> None:
    image = smooth_image(SIZE)
    config = FitConfig(**SHORT)
    here = fit_to_target(drawn(), image, 0.1, budget_epochs=20)
    with place():
        result = fit_to_target(on_gpu(drawn()), image, 0.1, budget_epochs=20)
        assert result.reached and result.params.device.type == "cuda"
        assert lr_range_test(on_gpu(drawn()), image.to("cuda"), config).suggestion > 0
        shown = preview(result.params, image)
        save_image(shown, tmp_path / "shown.png")
        assert webp(shown) and image_hash(image.to("cuda")) == image_hash(image)
        save_params(tmp_path / "siren.safetensors", result.params)
        lanes = list(
            race(image.to("cuda"), [INITS["33"](), INITS["hyper"]()], race_config(None, 1))
        )
        assert all(lane.picture.device.type == "cuda" for lane in lanes[-1])
    assert load_siren(tmp_path / "siren.safetensors")[0].device.type == "cpu"
    assert result.epochs == pytest.approx(here.epochs, rel=0.2)


# The captured step --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["nadam", "soap"])
def test_the_host_waits_once_a_planned_pass(optimizer: Any) -> None:
    image = smooth_image(SIZE)
    config = FitConfig(optimizer=optimizer, batch_pixels=16)
    with pretended_gpu() as gpu:
        steps = make_steps(on_gpu(drawn()), image.to("cuda"), config, work=0)
        assert isinstance(steps, StaticSteps)
        before, planned = gpu.waits, steps._credit.sampler.passes[0]
        for step in range(100):
            steps.take(1e-3, 1 - step / 100)
        assert gpu.waits - before == steps._credit.sampler.passes[0] - planned > 3
        assert gpu.replays == (97 if optimizer == "nadam" else 2 * 97)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["nadam", "soap"])
@pytest.mark.parametrize("images", [0, 2])
def test_a_step_over_fixed_tensors_is_the_step_that_it_was(optimizer: Any, images: int) -> None:
    """On the CPU, where nothing is captured: against the fused kernel and tensors made anew."""
    config = FitConfig(optimizer=optimizer, batch_pixels=16, weight_decay=0.1)
    start, image = drawn(), smooth_image(SIZE)
    if images:
        start = start.map(lambda value: value.expand(images, *value.shape).clone())
        image = torch.stack([smooth_image(SIZE, seed) for seed in range(images)])
    factors = (0.5, 0.9, 1.5, 5.0)

    def steps(kind: Any, **more: Any) -> Any:
        batches = batches_of(image, config, 16)
        return kind(Parts(start, batches, config, factors, squared_errors), **more)

    usual, static, plain = steps(FlatSteps), steps(StaticSteps), steps(FlatSteps, plain=True)
    for step in range(55):  # the first refresh of SOAP's basis included
        taken = [kind.take(1e-3, 1 - step / 70) for kind in (usual, static, plain)]
        assert torch.equal(taken[1], taken[2])
        torch.testing.assert_close(taken[1], taken[0], rtol=1e-3, atol=0)
    for name, value in usual.params.items():
        assert torch.equal(static.params[name], plain.params[name])
        torch.testing.assert_close(static.params[name], value, rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_a_collapse_is_taken_back_without_a_new_capture(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, looks = smooth_image(SIZE), 0
    truth = CollapseWatch.collapsed.fget  # type: ignore[attr-defined]

    def collapsed(watch: CollapseWatch) -> list[bool]:
        nonlocal looks
        looks += 1
        return [True] if looks == 5 else truth(watch)  # type: ignore[no-any-return]

    monkeypatch.setattr(CollapseWatch, "collapsed", property(collapsed))
    options: dict[str, Any] = {"budget_epochs": 12, "batch_pixels": 16, "eval_epochs": ()}
    options |= {"lr": 2e-3}
    start = INITS["paper"]().start(image, 0).params
    with place() as gpu:
        captured = fit(on_gpu(start), image, **options)
        assert gpu is None or (gpu.graphs == 1 and gpu.replays > 150)
        looks = 0
        with without_capture():
            plain = fit(on_gpu(start), image, **options)
        assert gpu is None or gpu.graphs == 1
    assert captured.collapses == plain.collapses != () and not captured.restarts
    assert captured.mse == pytest.approx(plain.mse, rel=1e-3)
    assert captured.mse < 0.1 * captured.curve[0].mse


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["nadam", "soap"])
@pytest.mark.parametrize("after", [0, 20])
def test_a_snapshot_continues_exactly(optimizer: Any, after: int, place: Any) -> None:
    config = FitConfig(optimizer=optimizer, batch_pixels=16)
    with place():
        steps = make_steps(on_gpu(drawn()), smooth_image(SIZE).to("cuda"), config, work=0)
        assert isinstance(steps, StaticSteps)
        sampler = steps._credit.sampler
        for _ in range(after):
            steps.take(1e-3, 1.0)
        state, pixels = steps.state(), sampler.state()
        once = [float(steps.take(1e-3, 1.0)) for _ in range(10)]
        steps.load_state(state)
        sampler.load_state(pixels)
        twice = [float(steps.take(1e-3, 1.0)) for _ in range(10)]
    assert twice == pytest.approx(once, rel=1e-5)


@pytest.mark.slow
def test_where_capturing_fails_one_line_says_so_and_the_fit_is_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = smooth_image(SIZE)
    with pretended_gpu():
        good = fit(on_gpu(drawn()), image, **SHORT)
        error = RuntimeError("CUDA error: operation not permitted\nand much more")
        monkeypatch.setattr(
            replay, "capture", lambda function, device: (_ for _ in ()).throw(error)
        )
        with caplog.at_level(logging.WARNING):
            plain = fit(on_gpu(drawn()), image, **SHORT)
    assert [record.getMessage() for record in caplog.records] == [
        "steps run without a CUDA graph (capturing failed: CUDA error: operation not permitted)"
    ]
    assert plain.mse == pytest.approx(good.mse, rel=1e-4)


# Training -----------------------------------------------------------------------------------------

TINY = {"size": SIZE, "width": WIDTH, "depth": 2, "batch_images": 2, "max_steps": 4}
TASKS: dict[str, tuple[Any, Any]] = {
    "hypernetwork": (HYPERNETWORK, lambda: TrainConfig(**TINY, inner_steps=2, query_pixels=64)),
    "normalized": (
        HYPERNETWORK,
        lambda: TrainConfig(**TINY, normalized_steps=True, residual_penalty=0.1),
    ),
    "reptile": (
        REPTILE,
        lambda: ReptileConfig(**{**REPTILE_PRESETS["tiny"], "size": SIZE, "batch_images": 2}),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_training_steps_there_are_those_here(name: str, place: Any) -> None:
    task, config = TASKS[name][0], TASKS[name][1]()
    images = torch.stack([smooth_image(SIZE, seed) for seed in range(2)])

    def losses(device: str) -> list[float]:
        state = new_state(task, config)
        state.model.to(device)
        found = [train_step(state, config, images.to(device))["train/loss"] for _ in range(3)]
        inits, _ = task.starts(state.model, config, images.to(device))
        kinds = {params.device.type for several in inits.values() for params in several}
        assert kinds == {device}
        return found

    here = losses("cpu")
    with place():
        there = losses("cuda")
    assert there == pytest.approx(here, rel=2e-2)


# Commands -----------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        save_image(smooth_image(SIZE, seed), tmp_path / "photos" / f"{seed}.png")
    return tmp_path / "photos"


SMALL = ["--width", "16", "--depth", "2", "--budget-epochs", "2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["fit", "{photos}/0.png", *SMALL, "-o", "{out}.safetensors", "--render", "{out}.png"],
        ["fit", "{photos}/0.png", *SMALL[:4], "--init", "untrained", "--target-mse", "0.3"],
        ["fit", "{photos}", *SMALL, "-o", "{out}"],
        ["generate", "{photos}/0.png", "--checkpoint", "photo-96", "-o", "{out}.safetensors"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_commands_compute_where_they_are_told(
    command: list[str], photos: Path, place: Any, capsys: Any
) -> None:
    out = str(photos.parent / "out")
    words = [word.format(photos=photos, out=out) for word in command]
    with place() as gpu:
        assert main([*words, "--device", "cuda"]) == 0
        if gpu is not None:
            assert gpu.made > 100 and (words[0] != "fit" or gpu.replays > 0)


@pytest.mark.long
@pytest.mark.parametrize("method", ["hyper", "reptile"])
def test_meta_training_computes_where_it_is_told(
    method: str, place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--method", "reptile"] if method == "reptile" else []
    with place() as gpu:
        run = ["meta-train", *words, "--preset", "tiny", "--wandb", "disabled", "--out", "run"]
        assert main([*run, "--device", "cuda"]) == 0
        assert gpu is None or gpu.replays > 0
    assert (tmp_path / "run" / "comparison.md").exists()


def test_a_benchmark_runs_and_says_where(photos: Path, place: Any) -> None:
    out = photos.parent / "records.jsonl"
    small = ["--image-size", "16", "--width", "16", "--depth", "2", "--budgets-epochs", "1"]
    with place() as gpu:
        words = [
            "benchmark",
            "--images",
            str(photos),
            "--inits",
            "33",
            "--limit",
            "1",
            "--seeds",
            "1",
        ]
        code = main(
            [
                *words,
                "--track",
                "seed",
                "--lr",
                "1e-3",
                *small,
                "--out",
                str(out),
                "--device",
                "cuda",
            ]
        )
        assert code == 0 and (gpu is None or gpu.made > 100)
    assert '"device": "cuda' in out.read_text()


# Many images --------------------------------------------------------------------------------------


def test_memory_decides_how_many_are_fitted_together(photos: Path) -> None:
    siren = SirenConfig(256, 5)
    with pretended_gpu() as gpu:
        device = torch.device("cuda")
        whole = many.most_together(siren, 224 * 224, 784, device)
        gpu.bytes //= 4
        quarter = many.most_together(siren, 224 * 224, 784, device)
        assert 32 <= whole <= many.MAX_TOGETHER and quarter == pytest.approx(whole / 4, abs=1)
        gpu.bytes = 1
        assert many.most_together(siren, 224 * 224, 784, device) == 1
    # On a CPU its caches do, and fits that large are taken one by one.
    assert many.most_together(siren, 224 * 224, 784, torch.device("cpu")) == 1


def test_fits_that_memory_does_not_hold_together_are_taken_in_halves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = [smooth_image(SIZE, seed) for seed in range(5)]
    starts = [drawn(seed) for seed in range(5)]
    expected = fit_many(starts, images, **SHORT)
    taken, fits = [], many._fit_group

    def fit_group(starts: Any, *arguments: Any) -> Any:
        taken.append(len(starts))
        if len(starts) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return fits(starts, *arguments)

    monkeypatch.setattr(many, "_fit_group", fit_group)
    found = fit_many(starts, images, **SHORT)
    assert taken == [5, 2, 3, 1, 2]
    assert [r.mse for r in found] == pytest.approx([r.mse for r in expected], rel=1e-3)
