"""Pictures of the seed experiment: its three levels of error, and the ghost of row 20.

    python scripts/seed_pictures.py cat.jpg -o docs/results/seed-pictures.png

From left to right: the photograph; a fit from init 33 when it first reaches each of the three
targets; a fit from row 20, which has only an output bias and so can only show a constant plus an
odd function; and the best such function.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

from torch import Tensor

from baselines import row
from hyperinit.base.arguments import EPOCHS, Parser
from hyperinit.base.errors import InputError
from hyperinit.base.files import write_atomically
from hyperinit.base.outputs import IMAGE, check_output
from hyperinit.fitting.config import FitConfig
from hyperinit.fitting.descent import FitResult, descent
from hyperinit.images.coords import image_to_rgb, rgb_to_image
from hyperinit.images.decode import load_image
from hyperinit.images.pixels import square_crop
from hyperinit.inits.start import spec_init
from hyperinit.record.protocol import TARGETS, Protocol
from hyperinit.report.charts import png
from hyperinit.siren.network import render

PROTOCOL = Protocol()  # for its sizes
GHOST_ROW = "20"
GHOST_EPOCHS = 16.0


def looks(image: Tensor, name: str, config: FitConfig) -> Iterator[FitResult]:
    """The results of a fit at each of its evaluations."""
    init = spec_init(name, row(name).init, PROTOCOL.width, PROTOCOL.depth)
    for (result,) in descent(init.start(image, 0), image, config):
        yield result


def best_odd(image: Tensor) -> tuple[Tensor, float]:
    """The constant plus odd function that is nearest to the image, and its MSE."""
    rgb = image_to_rgb(image)
    best = rgb.mean(dim=0) + (rgb - rgb.flip(-2)) / 2  # flipped: turned by 180 degrees
    return rgb_to_image(best, *image.shape[-2:]), float((best - rgb).square().mean())


def pictures(image: Tensor, budget_epochs: float) -> Iterator[tuple[str, Tensor]]:
    """(title, image) of each panel."""
    size = image.shape[-2:]
    yield "photograph", image
    every = tuple(i / 4 for i in range(1, int(4 * budget_epochs)))
    config = FitConfig(budget_epochs=budget_epochs, eval_epochs=every)
    ahead = sorted(TARGETS)
    for result in looks(image, "33", config):
        while ahead and result.mse <= ahead[-1]:
            ahead.pop()
            yield f"MSE {result.mse:.2g}", render(result.params, *size)
    *_, ghost = looks(image, GHOST_ROW, FitConfig(budget_epochs=GHOST_EPOCHS, lr=1e-3))
    yield f"row {GHOST_ROW}, MSE {ghost.mse:.2g}", render(ghost.params, *size)
    best, mse = best_odd(image)
    yield f"best possible, MSE {mse:.2g}", best


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    from matplotlib.figure import Figure

    parser = Parser(prog="seed_pictures.py", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("image", type=Path, help="photograph; its centre is shown at 224 x 224")
    parser.add_argument("-o", "--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--budget-epochs", type=EPOCHS, default=32.0, help="of init 33's fit (32)")
    arguments = parser.parse_args(argv)
    try:
        check_output(arguments.out, [".png"], IMAGE, inputs=[arguments.image])
        image = square_crop(load_image(arguments.image), PROTOCOL.image_size)
        shown = list(pictures(image, arguments.budget_epochs))
        figure = Figure(figsize=(1.8 * len(shown), 2.1), layout="constrained")
        for axis, (title, picture) in zip(figure.subplots(1, len(shown)), shown, strict=True):
            axis.imshow(picture.permute(1, 2, 0).numpy(), vmin=0, vmax=1)
            axis.set_title(title, fontsize=8)
            axis.axis("off")
        write_atomically(arguments.out, png(figure))
    except InputError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
