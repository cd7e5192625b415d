"""One photograph, several fit loops -> a Markdown table of the cost of their steps.

    python benchmarks/fit_speed.py                       224 x 224, SIREN 5 x 256
    python benchmarks/fit_speed.py --image cat.png --row "engine:hidden_dtype=bfloat16,lr=5e-4"
    python benchmarks/fit_speed.py --target-mse 8e-4     and until a fit is that good
    python benchmarks/fit_speed.py --size 2048 --row engine
    python benchmarks/fit_speed.py --smoke               seconds: does everything run?

Every row runs in a separate process with the same number of threads. All rows run once per round,
so that a change in the machine's load affects all alike; the table has medians over the rounds.
Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperinit.base.arguments import Parser
from hyperinit.base.errors import InputError
from hyperinit.fitting.config import PROTOCOL_1, FitConfig, fit_options
from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.fit import fit
from hyperinit.fitting.many import fit_many
from hyperinit.fitting.target import fit_to_target
from hyperinit.images.decode import load_image
from hyperinit.images.pixels import square_crop
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.record.protocol import PROTOCOLS
from hyperinit.record.records import CurvePoint
from hyperinit.siren.network import Params

PLAIN, SEED, ENGINE, COMMAND = "plain", "seed", "engine", "command"
ALONE, TOGETHER = "alone", "together"
ROWS = (
    PLAIN,
    SEED,
    COMMAND,  # as the `hyperinit` command fits
    ENGINE,
    "engine:sampler=residual",
    "engine:hidden_dtype=bfloat16",
    "engine:engine=compiled",
    "engine:engine=compiled,hidden_dtype=bfloat16",
)
SEED_LR = 1e-4  # about what the seed experiment's LR range test gave
CHECK_STEPS = 35  # 5 epochs of the seed experiment, between two looks at its training loss


def _start(width: int, depth: int, seed: int = 0) -> Params:
    spec = named_init("33")
    generator = torch.Generator().manual_seed(seed)
    return sample_params(spec, spec.siren_config(width, depth), generator=generator)


class _Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * x)


def plain_loop(image: Tensor, width: int, depth: int, batch_pixels: int, steps: int) -> float:
    """Seconds per step of a commonly written SIREN fit: nn.Linear, Adam, random pixels."""
    height, wide = image.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, wide), indexing="ij")
    coords = torch.stack((x, y), dim=-1).reshape(-1, 2)
    rgb = image.permute(1, 2, 0).reshape(-1, 3)
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else 2, width), _Sine()]
    model = nn.Sequential(*layers, nn.Linear(width, 3))
    for i, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            bound = 1 / layer.in_features if i == 0 else math.sqrt(6 / layer.in_features) / 30
            nn.init.uniform_(layer.weight, -bound, bound)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    warm = max(1, steps // 10)
    begin = 0.0
    for step in range(warm + steps):
        if step == warm:
            begin = time.perf_counter()
        indices = torch.randint(len(coords), (batch_pixels,))
        loss = nn.functional.mse_loss(model(coords[indices]), rgb[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # as if logged
    return (time.perf_counter() - begin) / steps


def _fit_row(image: Tensor, start: Params, config: FitConfig, arguments: Any) -> dict[str, Any]:
    """Cost of a step of `fit`; a first short fit separates one-time costs such as compiling."""
    pixels = image.shape[-2] * image.shape[-1]
    batch = config.step_pixels(pixels)
    epochs = arguments.steps * batch / pixels
    warm_steps = max(1, arguments.steps // 10)
    once = fit(start, image, config, budget_epochs=warm_steps * batch / pixels, eval_epochs=())
    points = [epochs * i / 20 for i in range(1, 20)]
    result = fit(start, image, config, budget_epochs=epochs, eval_epochs=tuple(points))
    end = result.curve[-1]
    sec = end.sec / max(end.steps, 1)
    row = {"sec": sec, "batch": batch, "mse": end.mse}
    row["first_sec"] = max(once.curve[-1].sec - warm_steps * sec, 0.0)
    return row


class _Enough(Exception):
    """The seed's protocol has reached the target, or its cap."""


def _train_to_target(
    image: Tensor, start: Params, config: FitConfig, target: float, cap_sec: float
) -> dict[str, float]:
    """Seconds until the smoothed training loss reaches the target; infinite if the cap comes first.

    It is not known from which curve the seed experiment reads its epochs; of the two candidates,
    this one reaches the target sooner.
    """
    epoch = config.step_pixels(image.shape[-2] * image.shape[-1]) / image[0].numel()
    evals = tuple(CHECK_STEPS * epoch * (i + 1) for i in range(3000))
    last: CurvePoint | None = None

    def look(point: CurvePoint) -> None:
        nonlocal last
        last = point
        if point.train_mse <= target or point.sec >= cap_sec:
            raise _Enough

    with contextlib.suppress(_Enough):
        fit(start, image, config, budget_epochs=evals[-1], eval_epochs=evals, on_eval=look)
    assert last is not None
    reached = last.train_mse <= target
    return {"target_sec": last.sec if reached else math.inf, "cap_sec": last.sec}


def measure(row: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs one row in this process."""
    torch.set_num_threads(arguments.threads)
    if row in (ALONE, TOGETHER):
        return _measure_many(row, arguments)
    image, width, depth = _image(arguments), arguments.width, arguments.depth
    kind, _, options = row.partition(":")
    if kind == PLAIN:
        sec = plain_loop(image, width, depth, arguments.batch_pixels, arguments.steps)
        return {"sec": sec, "batch": arguments.batch_pixels}
    start = _start(width, depth)
    if kind == SEED:
        fields = FitConfig.__dataclass_fields__
        shared = {k: v for k, v in PROTOCOLS["seed"].items() if k in fields}
        config = FitConfig(**shared, lr=SEED_LR)
        found = _fit_row(image, start, config, arguments)
        if arguments.target_mse is not None:
            target, cap = arguments.target_mse, arguments.cap_sec
            found |= _train_to_target(image, start, config, target, cap)
        return found
    if kind not in (ENGINE, COMMAND):
        raise InputError(f"--row {row!r}: must be one of {', '.join(ROWS)} or engine:FIELD=VALUE")
    pairs = options.split(",") if options else []
    base = {} if kind == COMMAND else {**PROTOCOL_1, "batch_pixels": arguments.batch_pixels}
    config = FitConfig(**{**base, **fit_options(pairs)})
    result = _fit_row(image, start, config, arguments)
    if arguments.target_mse is not None:
        found = fit_to_target(start, image, arguments.target_mse, config, budget_epochs=200)
        result["target_sec"] = found.sec if found.reached else math.inf
    return result


def _measure_many(row: str, arguments: argparse.Namespace) -> dict[str, Any]:
    count, side = arguments.many, arguments.many_size
    whole = square_crop(_image(arguments), side + count)  # windows of one photograph
    images = [whole[:, i : i + side, i : i + side].contiguous() for i in range(count)]
    starts = [_start(arguments.many_width, arguments.many_depth, i) for i in range(count)]
    config = FitConfig(eval_epochs=())

    def fit_all(budget_epochs: float) -> list[FitResult]:
        if row == TOGETHER:
            return fit_many(starts, images, config, budget_epochs=budget_epochs)
        pairs = zip(starts, images, strict=True)
        return [fit(start, image, config, budget_epochs=budget_epochs) for start, image in pairs]

    fit_all(arguments.many_epochs / 10)  # warm-up, off the clock
    begin = time.perf_counter()
    results = fit_all(arguments.many_epochs)
    sec = time.perf_counter() - begin
    psnr = statistics.fmean(result.psnr for result in results)
    return {"sec": sec, "images_per_hour": 3600 * count / sec, "psnr": psnr}


def _image(arguments: argparse.Namespace) -> Tensor:
    if arguments.image is not None:
        return square_crop(load_image(arguments.image), arguments.size)
    from skimage import data

    return square_crop(torch.from_numpy(data.cat()).permute(2, 0, 1) / 255, arguments.size)


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, but bytes on macOS
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _parser() -> Parser:
    parser = Parser(prog="fit_speed.py", description=__doc__)
    parser.add_argument("--image", type=Path, help="photograph (scikit-image's cat)")
    for name, value, text in (
        ("size", 224, "centre square of the photograph, in pixels"),
        ("width", 256, "units of the SIREN's sine layers"),
        ("depth", 5, "sine layers of the SIREN"),
        ("batch-pixels", 2048, "pixels per step; the seed's protocol has its own"),
        ("steps", 100, "steps per row and round"),
        ("rounds", 3, "rounds of all rows"),
        ("threads", torch.get_num_threads(), "CPU threads of every row"),
        ("many", 16, "number of small fits that run together"),
        ("many-size", 64, "their images"),
        ("many-width", 64, "their SIRENs"),
        ("many-depth", 3, "their SIRENs"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} ({value})")
    parser.add_argument("--many-epochs", type=float, default=20.0, help="their budget (20)")
    parser.add_argument("--target-mse", type=float, help="also measure seconds until this error")
    parser.add_argument(
        "--cap-sec",
        type=float,
        default=600.0,
        help="with --target-mse: when to give up on the seed's protocol (600)",
    )
    parser.add_argument("--row", action="append", metavar="ROW", help="only this row; repeatable")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--measure", metavar="ROW", help=argparse.SUPPRESS)
    return parser


SMOKE = {
    **{"size": 32, "width": 16, "depth": 2, "batch_pixels": 64, "steps": 20, "rounds": 1},
    **{"many": 2, "many_size": 12, "many_width": 8, "many_depth": 1, "many_epochs": 2.0},
}


def table(arguments: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> str:
    """Measurements of all rounds -> Markdown."""
    pixels = arguments.size**2
    lines = [
        f"{arguments.size} x {arguments.size}, SIREN {arguments.depth} x {arguments.width}, "
        f"{arguments.threads} threads, torch {torch.__version__}, {arguments.steps} steps, "
        f"median of {arguments.rounds} rounds",
        "",
        "| loop | pixels a step | ms a step | thousand pixels/s | epochs/s | first step more, s "
        "| peak MiB | s to target |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row, rounds in found.items():
        if row in (ALONE, TOGETHER):
            continue
        sec = statistics.median(one["sec"] for one in rounds)
        batch = rounds[0]["batch"]
        first = statistics.median(one.get("first_sec", 0.0) for one in rounds)
        peak = max(one["peak_mib"] for one in rounds)
        target = [one["target_sec"] for one in rounds if "target_sec" in one]
        reached = f"{statistics.median(target):.1f}" if target else "-"
        if target and row == SEED:
            if math.isinf(statistics.median(target)):
                reached = f"> {min(one['cap_sec'] for one in rounds):.0f}"
            reached += " (training loss)"
        lines.append(
            f"| {row} | {batch} | {1000 * sec:.2f} | {batch / sec / 1000:.1f} "
            f"| {batch / pixels / sec:.2f} | {first:.2f} | {peak:.0f} | {reached} |"
        )
    if ALONE in found and TOGETHER in found:
        lines += [
            "",
            f"{arguments.many} fits of {arguments.many_size} x {arguments.many_size}, SIREN "
            f"{arguments.many_depth} x {arguments.many_width}, {arguments.many_epochs:g} epochs of "
            f"{FitConfig().step_pixels(arguments.many_size**2)} pixels a step",
            "",
            "| fits | images per hour | mean PSNR, dB | peak MiB |",
            "| --- | --- | --- | --- |",
        ]
        for row in (ALONE, TOGETHER):
            hourly = statistics.median(one["images_per_hour"] for one in found[row])
            peak = max(one["peak_mib"] for one in found[row])
            lines.append(f"| {row} | {hourly:.0f} | {found[row][0]['psnr']:.2f} | {peak:.0f} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        vars(arguments).update(SMOKE)
    try:
        if arguments.measure is not None:
            print(json.dumps({**measure(arguments.measure, arguments), "peak_mib": _peak_mib()}))
            return 0
        own = list(sys.argv[1:] if argv is None else argv)
        rows = arguments.row or [*ROWS, ALONE, TOGETHER]
        found: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
        for _ in range(arguments.rounds):
            for row in rows:
                command = [sys.executable, __file__, *own, "--measure", row]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                    raise InputError(f"row {row} failed: {last}")
                found[row].append(json.loads(done.stdout.splitlines()[-1]))
    except InputError as error:
        parser.error(str(error))
    print(table(arguments, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
