"""One image and many, on a GPU and on the CPU -> seconds to each quality, images per second.

    python benchmarks/gpu.py --out gpu.json     under five minutes on a GPU
    python benchmarks/gpu.py --rehearse         at reduced size on a CPU, within a minute
    python benchmarks/gpu.py --report           runs nothing: record -> docs

Images are generated. The GPU's fits are checked against the CPU's: their final PSNR must agree to
within TOLERANCE_DB, or the exit code is 1. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.arguments import Parser
from hyperinit.base.errors import InputError
from hyperinit.base.files import write_atomically
from hyperinit.base.outputs import check_output
from hyperinit.fitting.config import FitConfig
from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.fit import fit
from hyperinit.fitting.many import fit_many, most_together
from hyperinit.images.pixels import resize
from hyperinit.inits.rules import named_init
from hyperinit.inits.start import SIZED_POWER, Start, sized_init
from hyperinit.photos.synthetic import synthetic_image
from hyperinit.report.blocks import update_blocks
from hyperinit.siren.ambient import products_of
from hyperinit.siren.device import choose_device, choose_threads
from hyperinit.siren.replay import without_capture

ROOT = Path(__file__).resolve().parent.parent
RECORD, DOCUMENT = ROOT / "benchmarks/records/gpu.json", ROOT / "docs/results/fit-engine.md"
RECORDS = ROOT / "baselines" / "records"  # of the page's other tables

LEVELS_DB = (30, 35, 40, 44)
TOLERANCE_DB = 0.5  # rounding differs between devices, and a fit amplifies it
WARM_EPOCHS = 0.25


@dataclass(frozen=True)
class Sizes:
    """The sizes of the fits.

    Attributes:
        side: Side of the images in pixels.
        width, depth: Width and depth of the SIRENs.
        epochs: Budget of one image's fit.
        many: Images that are fitted together on the GPU.
        cpu_many: How many of them on the CPU, where images per second do not depend on it.
        many_epochs: Budget of each of these.
    """

    side: int = 224
    width: int = 256
    depth: int = 5
    epochs: float = 24.0
    many: int = 256
    cpu_many: int = 2
    many_epochs: float = 8.0


REHEARSAL = Sizes(side=32, width=32, depth=3, epochs=8.0, many=8, cpu_many=4, many_epochs=2.0)


def image_of(seed: int, side: int) -> Tensor:
    """Blobs and gratings under fine texture, so that every quality takes some fitting."""
    coarse = synthetic_image(seed, side)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(3, max(side // 4, 1), max(side // 4, 1), generator=generator)
    return (coarse + 0.2 * (resize(noise, side, side) - 0.5)).clamp(0, 1)


def starts_of(images: Sequence[Tensor], sizes: Sizes) -> list[Start]:
    """The command's default init, with a separate draw for each image."""
    spec = named_init("identity")
    init = sized_init("identity-sized", spec, sizes.width, sizes.depth, SIZED_POWER)
    return [init.start(image, seed) for seed, image in enumerate(images)]


def _level_sec(result: FitResult, level: float) -> float | None:
    """Seconds at the first evaluation with at least `level` dB; None if there is none."""
    return next((point.sec for point in result.curve if point.psnr >= level), None)


def _curve_epochs(epochs: float) -> tuple[float, ...]:
    return tuple(epochs * i / 64 for i in range(1, 64))


def measure_one(device: torch.device, sizes: Sizes, **options: Any) -> dict[str, Any]:
    """One image: its seconds to each level, the cost of a step, the final PSNR."""
    image = image_of(0, sizes.side).to(device)
    (start,) = starts_of([image], sizes)
    fit(start, image, budget_epochs=WARM_EPOCHS, eval_epochs=(), **options)  # libraries, kernels
    looks = _curve_epochs(sizes.epochs)
    result = fit(start, image, budget_epochs=sizes.epochs, eval_epochs=looks, **options)
    end = result.curve[-1]
    # From the second half, so that one-time costs of a fit, such as capturing, do not count.
    half = result.curve[len(result.curve) // 2]
    step_ms = 1000 * (end.sec - half.sec) / max(end.steps - half.steps, 1)
    return {
        "psnr": result.kept.psnr,
        "sec": end.sec,
        "steps": end.steps,
        "step_ms": step_ms,
        "level_sec": {str(level): _level_sec(result, level) for level in LEVELS_DB},
        "collapses": len(result.collapses),
        "restarts": result.restarts,
    }


def measure_many(
    device: torch.device, sizes: Sizes, count: int, together: int | None = None, **options: Any
) -> dict[str, Any]:
    """Many images: images per second, with the device's choice or a given number at a time."""
    options = {"eval_epochs": (), **options}
    images = [image_of(seed, sizes.side).to(device) for seed in range(count)]
    begin = _now(device)
    starts = starts_of(images, sizes)
    start_sec = _now(device) - begin
    fit_many(starts[:2], images[:2], budget_epochs=WARM_EPOCHS, **options)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begin, results = _now(device), []
    step = together or count
    for i in range(0, count, step):
        part = slice(i, i + step)
        results += fit_many(starts[part], images[part], budget_epochs=sizes.many_epochs, **options)
    sec = _now(device) - begin
    pixels = sizes.side**2
    most = most_together(starts[0].params.config, pixels, FitConfig().step_pixels(pixels), device)
    found = {
        "images": count,
        "sec": sec,
        "start_sec": start_sec,
        "images_per_sec": count / (sec + start_sec),
        "together": min(most, count),
        "psnr": [result.kept.psnr for result in results],
    }
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(device: torch.device, sizes: Sizes, budget_sec: float) -> dict[str, Any]:
    """Measures all rows. The least important come last, and are left out when the time is up."""
    begin = time.perf_counter()
    one: dict[str, Any] = {}
    many: dict[str, Any] = {}
    tf32 = partial(products_of, "high")  # ten bits of mantissa
    rows: list[tuple[dict[str, Any], str, Any, Any]] = [
        (one, "device", nullcontext, lambda: measure_one(device, sizes)),
        (many, "device", nullcontext, lambda: measure_many(device, sizes, sizes.many)),
        (one, "cpu", nullcontext, lambda: measure_one(torch.device("cpu"), sizes)),
        (
            many,
            "cpu",
            nullcontext,
            lambda: measure_many(torch.device("cpu"), sizes, sizes.cpu_many),
        ),
        (one, "device, no graph", without_capture, lambda: measure_one(device, sizes)),
        (one, "device, soap", nullcontext, lambda: measure_one(device, sizes, optimizer="soap")),
        (one, "device, tf32", tf32, lambda: measure_one(device, sizes)),
        (
            one,
            "device, bfloat16",
            nullcontext,
            lambda: measure_one(device, sizes, hidden_dtype="bfloat16"),
        ),
        (many, "device, tf32", tf32, lambda: measure_many(device, sizes, sizes.many)),
        (
            many,
            "device, gradients in bfloat16",
            nullcontext,
            lambda: measure_many(device, sizes, sizes.many, backward_dtype="bfloat16"),
        ),
        (
            one,
            "device, gradients in bfloat16",
            nullcontext,
            lambda: measure_one(device, sizes, backward_dtype="bfloat16"),
        ),
    ]
    for group, name, around, run in rows:
        kind = "one" if group is one else "many"
        if time.perf_counter() - begin > budget_sec and len(one) > 1 and len(many) > 1:
            group[name] = None
            continue
        row_begin = time.perf_counter()
        with around():
            group[name] = run()
        print(f"{kind}, {name}: {time.perf_counter() - row_begin:.1f} s in all", file=sys.stderr)
    return {"one": one, "many": many, "sec": time.perf_counter() - begin}


def disagreements(found: dict[str, Any]) -> list[str]:
    """A line for each fit whose final PSNR differs between the device and the CPU."""
    one, many = found["one"], found["many"]
    pairs = [("one image", one["device"]["psnr"], one["cpu"]["psnr"])]
    both = zip(many["device"]["psnr"], many["cpu"]["psnr"], strict=False)
    pairs += [(f"image {i} of many", a, b) for i, (a, b) in enumerate(both)]
    if one.get("device, no graph"):
        pairs.append(
            ("with a graph or without", one["device"]["psnr"], one["device, no graph"]["psnr"])
        )
    return [
        f"{what}: {a:.2f} and {b:.2f} dB" for what, a, b in pairs if not abs(a - b) <= TOLERANCE_DB
    ]


def tables(found: dict[str, Any]) -> str:
    """Measurements -> Markdown."""
    levels = " | ".join(f"s to {level} dB" for level in LEVELS_DB)
    lines = [
        f"| one image | ms a step | {levels} | s | PSNR, dB |",
        f"| --- | {'--- | ' * (len(LEVELS_DB) + 3)}",
    ]
    for name, row in found["one"].items():
        if row is None:
            lines.append(f"| {name} | not measured, for lack of time |")
            continue
        reached = (row["level_sec"][str(level)] for level in LEVELS_DB)
        cells = " | ".join("-" if sec is None else f"{sec:.2f}" for sec in reached)
        lines.append(
            f"| {name} | {row['step_ms']:.3f} | {cells} | {row['sec']:.2f} | {row['psnr']:.2f} |"
        )
    lines += [
        "",
        "| many images | images | images a second | together | PSNR, dB | peak GiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in found["many"].items():
        if row is None:
            lines.append(f"| {name} | not measured, for lack of time |")
            continue
        psnr = sum(row["psnr"]) / len(row["psnr"])
        peak = f"{row['peak_gib']:.1f}" if "peak_gib" in row else "-"
        lines.append(
            f"| {name} | {row['images']} | {row['images_per_sec']:.2f} | {row['together']} "
            f"| {psnr:.2f} | {peak} |"
        )
    return "\n".join(lines)


def update_document(text: str, found: dict[str, Any]) -> str:
    """The page with a record's tables in their block."""
    where = found["environment"]
    said = f"{where['device']}, torch {where['torch']}; beside one thread of its host's CPU\n\n"
    blocks = {"gpu": lambda: f"{said}{tables(found)}\n"}
    return update_blocks(text, RECORDS, DOCUMENT.name, blocks)


def environment(device: torch.device) -> dict[str, Any]:
    """The environment that the numbers depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _parser() -> Parser:
    parser = Parser(
        prog="gpu.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--device", default="cuda", metavar="auto|cpu|cuda|mps", help="besides the CPU (cuda)")
    add("--rehearse", action="store_true", help="on the CPU, at reduced size, within a minute")
    add("--report", action="store_true", help="run nothing; write the tables of the record")
    add("--out", type=Path, help="write a record: OUT.json")
    add("--threads", type=int, help="CPU threads of the CPU's rows (as many as pay off)")
    add("--many", type=int, default=Sizes.many, help=f"images fitted together ({Sizes.many})")
    add("--budget-sec", type=float, default=200.0, help="begin no new row after this (200)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0; 1 where results disagree; 2 for bad input."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.report:
        text = DOCUMENT.read_text(encoding="utf-8")
        write_atomically(DOCUMENT, update_document(text, json.loads(RECORD.read_text())).encode())
        return 0
    sizes = REHEARSAL if arguments.rehearse else Sizes(many=arguments.many)
    work = FitConfig().step_pixels(sizes.side**2) * sizes.width**2
    try:
        if arguments.out is not None:  # checked before the device is paid for
            check_output(arguments.out, [".json"], "records")
        torch.set_num_threads(choose_threads(arguments.threads, work))
        device = choose_device("cpu" if arguments.rehearse else arguments.device)
    except InputError as error:
        parser.error(str(error))
    found = measure(device, sizes, arguments.budget_sec)
    found |= {"sizes": vars(sizes), "environment": environment(device)}
    found["disagreements"] = disagreements(found)
    print(json.dumps(found["environment"]), "", tables(found), "", sep="\n")
    for line in found["disagreements"]:
        print(f"more than {TOLERANCE_DB} dB apart: {line}")
    if arguments.out is not None:
        try:
            write_atomically(arguments.out, f"{json.dumps(found, indent=1)}\n".encode())
        except InputError as error:
            parser.error(str(error))
    return 1 if found["disagreements"] else 0


if __name__ == "__main__":
    sys.exit(main())
