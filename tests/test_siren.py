"""Coordinates and Params -> colours: the formula, its two forms, and what Params refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.images.coords import COORD_STD, RGB_MEAN, RGB_STD, pixel_coords
from hyperinit.inits.rules import NAMED_INITS, sample_params
from hyperinit.inits.start import Start
from hyperinit.siren.network import Params, Siren, SirenConfig, apply, param_shapes, predict, render
from hyperinit.siren.signals import render_samples, render_signal
from hyperinit.siren.vectors import from_vector, to_vector

TINY = SirenConfig(width=8, depth=2)
CONFIGS = {
    "plain": TINY,
    "unit_std_coords": SirenConfig(width=8, depth=2, unit_std_coords=True),
    "no bias": SirenConfig(width=8, depth=3, bias=False),
    "one sine layer": SirenConfig(width=8, depth=1, omega_0=10.0),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def ramp_params(config: SirenConfig, scale: float = 0.05) -> Params:
    """Weights without a random generator: every tensor a ramp over [-scale, scale]."""
    return Params(
        config,
        {
            name: torch.linspace(-scale, scale, math.prod(shape)).reshape(shape)
            for name, shape in param_shapes(config).items()
        },
    )


def random_params(config: SirenConfig, batch: tuple[int, ...] = (), seed: int = 0) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return Params(
        config,
        {
            name: 0.1 * torch.randn(*batch, *shape, generator=generator)
            for name, shape in param_shapes(config).items()
        },
    )


def random_coords(*shape: int) -> Tensor:
    return torch.rand(*shape, 2, generator=torch.Generator().manual_seed(9)) * 2 - 1


def reference(params: Params, x: float, y: float) -> list[float]:
    """SIREN sec. 3.1 in double precision, one number after the other."""
    config = params.config
    values = [x / COORD_STD, y / COORD_STD] if config.unit_std_coords else [x, y]
    for layer in range(config.depth + 1):
        weight = params[f"layers.{layer}.weight"].tolist()
        bias = [0.0] * len(weight)
        if f"layers.{layer}.bias" in params:
            bias = params[f"layers.{layer}.bias"].tolist()
        sums = [
            sum(w * v for w, v in zip(row, values, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
        sine_layer = layer < config.depth
        values = [math.sin(config.omega_0 * s) for s in sums] if sine_layer else sums
    return values


# The formula -------------------------------------------------------------------------------------


@every_config
def test_apply_is_the_formula_of_the_paper(config: SirenConfig) -> None:
    params, coords = random_params(config), random_coords(20)
    expected = torch.tensor([reference(params, *point) for point in coords.tolist()])
    assert torch.allclose(apply(params, coords), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "golden"),
    [
        (
            "plain",
            [
                [-0.0205928, 0.0450500, 0.1106929],
                [-0.0995596, 0.0467656, 0.1930909],
                [-0.0487434, 0.0536202, 0.1559839],
            ],
        ),
        (
            "unit_std_coords",
            [
                [-0.0089681, 0.0187141, 0.0463964],
                [-0.0995596, 0.0467656, 0.1930909],
                [0.0382078, 0.0521717, 0.0661356],
            ],
        ),
    ],
)
def test_outputs_of_ramp_weights_are_pinned(config: str, golden: list[list[float]]) -> None:
    coords = torch.tensor([[-0.75, 0.5], [0.0, 0.0], [0.25, 1.0]])
    colours = apply(ramp_params(CONFIGS[config]), coords)
    assert torch.allclose(colours, torch.tensor(golden), atol=1e-6)


def test_columns_of_coordinates_are_x_then_y() -> None:
    """Weights that ignore the second column give an image that is constant down its columns."""
    params = random_params(TINY)
    weight = params["layers.0.weight"] * torch.tensor([1.0, 0.0])
    image = render(Params(TINY, {**params, "layers.0.weight": weight}), 4, 6)
    assert torch.allclose(image, image[:, :1].expand_as(image))
    assert not torch.allclose(image, image[:, :, :1].expand_as(image))


def test_a_five_by_256_siren_has_264707_parameters() -> None:
    shapes = param_shapes(SirenConfig())
    assert sum(math.prod(shape) for shape in shapes.values()) == 264_707
    assert shapes["layers.0.weight"] == (256, 2)
    assert shapes["layers.5.weight"] == (3, 256)
    assert len(shapes) == 12


def test_without_biases_only_the_output_layer_keeps_one() -> None:
    config = SirenConfig(width=8, depth=3, bias=False)
    assert [name for name in param_shapes(config) if "bias" in name] == ["layers.3.bias"]
    params, coords = random_params(config), random_coords(20)
    bias = params["layers.3.bias"]
    odd_part = apply(params, coords) - bias
    assert torch.allclose(apply(params, -coords) - bias, -odd_part, atol=1e-6)


# One and many ------------------------------------------------------------------------------------


@every_config
def test_module_gives_the_same_numbers_as_apply(config: SirenConfig) -> None:
    params, coords = random_params(config), random_coords(20)
    assert torch.equal(Siren.from_params(params)(coords), apply(params, coords))


@every_config
@pytest.mark.parametrize("shared", [True, False], ids=["shared coords", "own coords"])
def test_batched_apply_equals_one_by_one(config: SirenConfig, shared: bool) -> None:
    params = random_params(config, batch=(4,))
    coords = random_coords(20) if shared else random_coords(4, 20)
    batched = apply(params, coords)
    assert batched.shape == (4, 20, 3)
    for i, single in enumerate(params.unbatch()):
        alone = apply(single, coords if shared else coords[i])
        assert torch.allclose(batched[i], alone, atol=1e-5)


def test_one_siren_takes_coordinates_of_any_leading_shape() -> None:
    params, coords = random_params(TINY), random_coords(3, 5)
    assert torch.allclose(
        apply(params, coords), apply(params, coords.flatten(0, 1)).unflatten(0, (3, 5))
    )


def test_gradients_reach_every_stacked_parameter() -> None:
    """What makes a hypernetwork trainable: its output is a batch of Params."""
    params = random_params(TINY, batch=(2,)).map(lambda value: value.requires_grad_())
    apply(params, random_coords(10)).square().sum().backward()
    for name, value in params.items():
        assert value.grad is not None and bool(value.grad.flatten(1).any(dim=1).all()), name


def test_unbatch_gives_the_single_sirens_in_order() -> None:
    stacked = random_params(TINY, batch=(3,))
    singles = stacked.unbatch()
    assert stacked.batch_shape == (3,) and len(singles) == 3
    for i, single in enumerate(singles):
        assert single.batch_shape == () and single.config == TINY
        assert all(torch.equal(single[name], stacked[name][i]) for name in stacked)


def test_map_changes_every_tensor_and_not_the_original() -> None:
    params = random_params(TINY)
    doubled = params.map(lambda value: value * 2)
    assert doubled.config == TINY and list(doubled) == list(params)
    assert all(torch.equal(doubled[name], params[name] + params[name]) for name in params)


# The module --------------------------------------------------------------------------------------


def test_from_params_copies() -> None:
    params = random_params(TINY)
    before = params.map(torch.Tensor.clone)
    siren = Siren.from_params(params)
    with torch.no_grad():
        for value in siren.parameters():
            value.add_(1)
    assert all(torch.equal(params[name], before[name]) for name in params)
    assert all(not torch.equal(siren.params[name], before[name]) for name in params)


@every_config
def test_module_and_params_have_the_same_names_in_the_same_order(config: SirenConfig) -> None:
    params = random_params(config)
    siren = Siren.from_params(params)
    assert list(siren.state_dict()) == list(params) == list(siren.params)
    assert all(value.requires_grad for value in siren.parameters())
    for name, value in siren.params.items():
        assert torch.equal(value, params[name])


# Images ------------------------------------------------------------------------------------------


def test_chunks_do_not_change_a_prediction() -> None:
    params, coords = random_params(TINY), pixel_coords(5, 7)
    whole = predict(params, coords)
    assert torch.allclose(predict(params, coords, chunk_pixels=4), whole, atol=1e-6)
    assert not whole.requires_grad


def test_render_undoes_the_normalisation_and_clips() -> None:
    params = random_params(TINY).map(torch.zeros_like)
    mean_image = render(params, 2, 3)
    assert mean_image.shape == (3, 2, 3)
    assert torch.allclose(mean_image[:, 0, 0], torch.tensor(RGB_MEAN))
    bias = torch.tensor([1.0, 100.0, -100.0])
    shown = render(Params(TINY, {**params, "layers.2.bias": bias}), 2, 3)[:, 1, 2]
    assert shown.tolist() == pytest.approx([RGB_MEAN[0] + RGB_STD[0], 1.0, 0.0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_parameters_of_every_precision_are_drawn(dtype: torch.dtype) -> None:
    other = random_params(TINY).map(lambda value: value.to(dtype))
    # Rounded are the parameters and the result, and not where pixels lie.
    exact = render(other.map(Tensor.double), 90, 120)
    shown = render(other, 90, 120)
    assert shown.dtype == dtype
    least = max(torch.finfo(dtype).eps, 1e-6)
    torch.testing.assert_close(shown.double(), exact, atol=2 * least, rtol=0)
    sound = random_params(SirenConfig(width=8, depth=2, in_features=1, out_features=1)).map(
        lambda value: value.to(dtype)
    )
    exact = render_samples(sound.map(Tensor.double), (500,))
    shown = render_samples(sound, (500,))
    torch.testing.assert_close(shown.double(), exact, atol=2 * least, rtol=0)


def test_the_same_siren_renders_at_another_size() -> None:
    params = ramp_params(TINY, 0.01)  # smooth: the average of a 2 x 2 block is its centre
    small, large = render(params, 6, 10), render(params, 12, 20)
    assert large.shape == (3, 12, 20)
    blocks = torch.nn.functional.avg_pool2d(large, 2)
    assert torch.allclose(blocks, small, atol=1e-3)
    assert float(small.std()) > 1e-2  # not one colour


# Refusals ----------------------------------------------------------------------------------------


def changed(name: str, value: Tensor | None) -> dict[str, Tensor]:
    tensors = dict(random_params(TINY))
    tensors.pop(name, None)
    return tensors if value is None else {**tensors, name: value}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layers.1.bias", None, r"layers\.1\.bias is missing from"),
        ("layers.0.weight", None, r"layers\.0\.weight is missing from"),
        ("layers.3.bias", torch.zeros(3), r"layers\.3\.bias is not a parameter of"),
        (
            "layers.1.weight",
            torch.zeros(8, 7),
            r"layers\.1\.weight has shape \(8, 7\), expected \(8, 8\)",
        ),
        (
            "layers.2.bias",
            torch.zeros(2, 3),
            r"layers\.2\.bias has shape \(2, 3\), expected \(3,\)",
        ),
        ("layers.0.weight", torch.zeros(2, 8), r"layers\.0\.weight has shape"),
        ("layers.0.weight", torch.zeros(16), r"layers\.0\.weight has shape"),
    ],
)
def test_params_name_the_tensor_that_does_not_fit(
    name: str, value: Tensor | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Params(TINY, changed(name, value))


def test_params_are_tensors_with_one_leading_dimension_at_most() -> None:
    arrays = {name: value.numpy() for name, value in random_params(TINY).items()}
    with pytest.raises(InputError, match=r"layers\.0\.weight must be a tensor, not ndarray"):
        Params(TINY, arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"layers\.0\.weight has shape \(2, 3, 8, 2\)"):
        random_params(TINY, batch=(2, 3))


def test_params_can_be_looked_for_in_a_list() -> None:
    ours, same = random_params(TINY), random_params(TINY)
    assert [ours, same].index(same) == 1 and len({ours, same}) == 2


def test_whole_numbers_as_parameters_are_not_drawn_as_zeros() -> None:
    whole = random_params(TINY).map(lambda value: value.int())
    with pytest.raises(InputError, match="must be floating-point numbers"):
        render(whole, 2, 2)


def test_what_is_no_size_is_named() -> None:
    sound = random_params(SirenConfig(width=8, depth=2, in_features=1, out_features=1))
    with pytest.raises(InputError, match=r"sides must be whole numbers, not \(2\.5, 2\)"):
        render(random_params(TINY), 2.5, 2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sides must be whole numbers, not 7"):
        render_signal(sound, 7)  # type: ignore[arg-type]
    assert render(random_params(TINY), np.int64(3), np.int64(2)).shape == (3, 3, 2)  # type: ignore[arg-type]


def test_what_is_not_params_or_a_vector_is_named() -> None:
    with pytest.raises(InputError, match=r"params must be Params, not Start: give its \.params"):
        Siren(Start(random_params(TINY)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="vector must be a tensor, not ndarray"):
        from_vector(to_vector(random_params(TINY)).numpy(), TINY)  # type: ignore[arg-type]


def test_params_of_a_network_with_biases_do_not_fit_one_without() -> None:
    with pytest.raises(InputError, match=r"layers\.0\.bias is not a parameter of"):
        Params(SirenConfig(width=8, depth=2, bias=False), dict(random_params(TINY)))


def test_all_tensors_are_stacked_alike() -> None:
    stacked = dict(random_params(TINY, batch=(2,)))
    with pytest.raises(InputError, match=r"layers\.1\.bias has shape \(8,\), expected \(2, 8\)"):
        Params(TINY, {**stacked, "layers.1.bias": torch.zeros(8)})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0),
        ("depth", 0),
        ("depth", -1),
        ("omega_0", 0.0),
        ("omega_0", -30.0),
        ("omega_0", float("nan")),
    ],
)
def test_config_names_the_field_that_is_out_of_range(field: str, value: float) -> None:
    with pytest.raises(InputError, match=field):
        SirenConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("dims", "values", "sides"), [(2, 3, (150, 100)), (1, 1, (70_000,))])
def test_who_draws_is_told_how_far_it_is(dims, values, sides):
    config = SirenConfig(4, 1, in_features=dims, out_features=values)
    draw = torch.Generator().manual_seed(0)
    params = sample_params(NAMED_INITS["33"], config, generator=draw)
    told = []
    shown = render_samples(params, sides, on_drawn=told.append)
    assert sum(told) == math.prod(sides) and len(told) > 1
    assert torch.equal(shown, render_samples(params, sides))
