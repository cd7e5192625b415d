"""Signals other than photographs -> a Markdown table of fits from several inits.

    python benchmarks/signals.py                         all signals: two minutes of one core
    python benchmarks/signals.py --signals speech --inits paper paper@100 identity-sized
    python benchmarks/signals.py --smoke                 seconds: does everything run?

All signals are generated, equal on every machine up to rounding. Every fit is the package's default
at the same budget; only the init differs. The tables of docs/guides/signals.md come from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from skimage.data import astronaut
from torch import Tensor

import hyperinit
from hyperinit.base.arguments import COUNT, Parser
from hyperinit.base.errors import InputError
from hyperinit.images.coords import grid_coords
from hyperinit.images.pixels import square_crop
from hyperinit.photos.synthetic import synthetic_image

INITS = ("paper", "identity-sized", "waves-sized")
SEEDS = 2
SMOKE_EPOCHS = 0.5


@dataclass(frozen=True)
class Case:
    """One signal and the fit that suits its size.

    Attributes:
        about: A description in one line.
        make: Makes the signal, (C, *sides) in [-1, 1].
        width, depth: Width and depth of the SIREN.
        budget_epochs: Budget of each fit.
    """

    about: str
    make: Callable[[], Tensor]
    width: int
    depth: int
    budget_epochs: float


def speech(samples: int = 8000, rate_hz: int = 8000) -> Tensor:
    """Three vowels and a hiss, one second: harmonics of a gliding pitch under moving formants."""
    t = torch.arange(samples, dtype=torch.float64) / rate_hz
    pitch_hz = 120 + 30 * torch.sin(2 * math.pi * 1.5 * t)
    phase = 2 * math.pi * pitch_hz.cumsum(0) / rate_hz
    formants_hz = ((300, 730, 530), (2300, 1090, 1840), (3000, 2440, 2480))  # of ee, ah, eh
    vowel = (3 * t / t[-1]).clamp_max(2.999).long()
    sound = torch.zeros_like(t)
    for harmonic in range(1, 28):
        hz = harmonic * pitch_hz
        gain = sum(
            1 / (1 + ((hz - torch.tensor(centres)[vowel]) / 90) ** 2) / (k + 1)
            for k, centres in enumerate(formants_hz)
        )
        sound += gain * torch.sin(harmonic * phase)
    syllables = torch.sin(3 * math.pi * t / t[-1]).abs() ** 0.7
    hiss = torch.randn(samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sound = syllables * sound + 0.3 * (1 - syllables) ** 4 * hiss
    return (0.9 * sound / sound.abs().max()).float()[None]


def chirp(samples: int = 8000) -> Tensor:
    """A sine that rises from 20 to 2,000 periods a second, over one second of 8,000 samples."""
    t = torch.linspace(0, 1, samples, dtype=torch.float64)
    return (0.9 * torch.sin(2 * math.pi * (20 * t + 990 * t**2))).float()[None]


def cut_out(side: int = 64) -> Tensor:
    """scikit-image's astronaut, cut out with a soft edge: R, G, B and alpha."""
    picture = square_crop(hyperinit.to_image(astronaut()), side)
    x, y = grid_coords((side, side)).T
    alpha = torch.sigmoid(12 * (0.7 - (x**2 + 1.6 * y**2).sqrt())).view(1, side, side)
    return torch.cat((picture, alpha)) * 2 - 1


def bands(side: int = 48, count: int = 8) -> Tensor:
    """A scene of three materials, each with its spectrum, in eight bands."""
    amounts = synthetic_image(2, side)
    nm = torch.linspace(400, 1000, count)
    spectra = torch.stack(
        [
            0.1 + 0.7 * torch.sigmoid((nm - 700) / 30),  # plants: the red edge
            0.15 + 0.5 * (nm - 400) / 600,  # soil
            0.5 * torch.exp(-(((nm - 480) / 120) ** 2)),  # water
        ]
    )
    scene = torch.einsum("mc,mhw->chw", spectra, amounts)
    return scene / scene.max() * 2 - 1


def volume(side: int = 24) -> Tensor:
    """A density: nested ellipsoids, as in a scan of a head, with a grain."""
    x, y, z = grid_coords((side, side, side)).T
    density = torch.zeros(side**3)
    shells = ((0.85, 0.7, 0.8, 0.0, 0.9), (0.75, 0.6, 0.7, 0.0, -0.6), (0.2, 0.35, 0.3, 0.3, 0.4))
    for a, b, c, shift, value in shells:
        inside = 1 - ((x - shift) / a) ** 2 - (y / b) ** 2 - (z / c) ** 2
        density += value * torch.sigmoid(20 * inside)
    density += 0.05 * torch.sin(9 * x + 4 * y) * torch.sin(8 * y - 5 * z)
    return (density.clamp(-0.2, 1) * 2 - 1).clamp(-1, 1).view(1, side, side, side)


def distance(side: int = 24) -> Tensor:
    """The signed distance to a ring through a ball, cut off at 1 and negative inside."""
    x, y, z = grid_coords((side, side, side)).T
    ring = (((x**2 + y**2).sqrt() - 0.6) ** 2 + z**2).sqrt() - 0.2
    ball = ((x - 0.6) ** 2 + y**2 + z**2).sqrt() - 0.35
    return torch.minimum(ring, ball).clamp(-1, 1).view(1, side, side, side)


CASES = {
    "speech": Case("sound, 8,000 samples", speech, 64, 4, 32),
    "chirp": Case("sound, 8,000 samples", chirp, 64, 4, 32),
    "cut-out": Case("RGBA, 64 x 64", cut_out, 64, 4, 16),
    "bands": Case("8 bands, 48 x 48", bands, 64, 4, 16),
    "volume": Case("density, 24 x 24 x 24", volume, 64, 4, 16),
    "distance": Case("signed distance, 24 x 24 x 24", distance, 64, 4, 16),
}


def psnrs(case: Case, init: str, seeds: int, budget_epochs: float) -> list[float]:
    """PSNR in dB of a fit from each seed."""
    signal = case.make()
    found = []
    for seed in range(seeds):
        start = hyperinit.signal_start(signal, init, width=case.width, depth=case.depth, seed=seed)
        result = hyperinit.fit(start, signal, budget_epochs=budget_epochs, seed=seed)
        found.append(result.kept.psnr)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, row by row."""
    parser = Parser(prog="signals.py", description=__doc__.splitlines()[0])
    parser.add_argument("--signals", nargs="+", default=list(CASES), choices=CASES, metavar="NAME")
    parser.add_argument("--inits", nargs="+", default=list(INITS), metavar="NAME")
    parser.add_argument("--seeds", type=COUNT, default=SEEDS)
    parser.add_argument("--smoke", action="store_true", help="half an epoch of one seed")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"| signal | SIREN | epochs | {' | '.join(arguments.inits)} |")
    print(f"| --- | --- | ---: | {' | '.join('---:' for _ in arguments.inits)} |")
    for name in arguments.signals:
        case = CASES[name]
        budget_epochs = SMOKE_EPOCHS if arguments.smoke else case.budget_epochs
        seeds = 1 if arguments.smoke else arguments.seeds
        cells = []
        for init in arguments.inits:
            try:
                found = psnrs(case, init, seeds, budget_epochs)
            except InputError as error:
                parser.error(str(error))
            cells.append(f"{sum(found) / len(found):.1f}")
        size = f"{case.depth} x {case.width}"
        row = (f"{name}: {case.about}", size, f"{budget_epochs:g}", *cells)
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
