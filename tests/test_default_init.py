"""Where `hyperinit fit` starts if no init is named."""

from __future__ import annotations

import pytest
from conftest import smooth_image

from hyperinit.app.cli import main
from hyperinit.hypernet.untrained import suitable_start
from hyperinit.images.save import save_image
from hyperinit.siren.store import load_params

NETWORK = ["--width", "8", "--depth", "1", "--fit", "engine=eager"]


@pytest.mark.parametrize(
    ("side", "budget", "more", "expected"),
    [
        (40, "6.4", [], "waves-steps"),
        (40, "6.3", [], "waves-few-steps"),
        (128, "3.9", [], "waves-steps"),  # the sooner, the larger the image
        (128, "3.8", [], "waves-few-steps"),
        (40, "0.6", [], "waves-few-steps"),
        (40, "0.5", [], "waves-sized"),
        (257, "0.25", ["--width", "8"], "waves-sized"),
        (257, "0.6", ["--width", "8"], "waves-few-steps"),
        (320, "1.9", ["--width", "8"], "waves-steps"),  # as many steps as for 256 x 256
        (320, "1.8", ["--width", "8"], "waves-few-steps"),
        (256, "0.6", ["--width", "8"], "waves-few-steps"),
        (24, "4", [], "waves-few-steps"),
        (23, "8", [], "identity-sized"),  # they would see too few pixels
        (23, "2.2", [], "waves-sized"),
        (39, "4", ["--width", "128", "--depth", "4"], "identity-sized"),  # all the more there
        (40, "4", ["--width", "128", "--depth", "4"], "waves-few-steps"),
        (23, None, ["--target-mse", "0.3"], "waves-sized"),
        (48, "4", ["--size", "15x38"], "identity-sized"),
        (39, "4", ["--size", "20x80"], "waves-few-steps"),
        (40, "4", ["--omega-0", "20"], "waves-sized"),  # step sizes are for an omega_0 of 30
        (39, "4", ["--omega-0", "20"], "identity-sized"),
        (39, "2.2", ["--omega-0", "20"], "waves-sized"),
        (40, "3", ["--omega-0", "20", "--width", "128", "--depth", "4"], "identity-sized"),
        (40, "2.2", ["--init", "untrained"], "untrained"),
        (40, None, ["--target-mse", "0.3"], "waves-sized"),  # a matter of half an epoch
        (40, None, ["--target-mse", "0.05", "--width", "32", "--depth", "3"], "waves-few-steps"),
        (40, None, ["--target-mse", "8e-4", "--width", "64", "--depth", "3"], "waves-steps"),
        # learned starts, where they are known to be ahead
        (48, "1", ["--width", "128", "--depth", "4"], "linear-96"),
        (48, "0.1", ["--width", "128", "--depth", "4"], "linear-96"),
        (48, "6", ["--width", "128", "--depth", "4"], "waves-steps"),
        (47, "1", ["--width", "128", "--depth", "4"], "waves-few-steps"),
        (48, "1", ["--width", "128", "--depth", "4", "--omega-0", "20"], "waves-sized"),
        (96, "0.2", ["--width", "256", "--depth", "5"], "steps-224"),
        (96, "0.19", ["--width", "256", "--depth", "5"], "waves-sized"),
        (95, "0.6", ["--width", "256", "--depth", "5"], "waves-few-steps"),
        (257, "0.1", ["--width", "256", "--depth", "5"], "waves-sized"),
        # a network that is large for its image is there sooner
        (40, None, ["--target-mse", "8e-4", "--width", "170", "--depth", "3"], "waves-few-steps"),
    ],
)
def test_the_start_suits_the_image_and_the_budget(tmp_path, side, budget, more, expected):
    save_image(smooth_image(side), tmp_path / "a.png")
    out = tmp_path / "a.safetensors"
    line = ["fit", str(tmp_path / "a.png"), "-o", str(out)]
    line += [] if budget is None else ["--budget-epochs", budget]
    assert main([*line, *NETWORK, *more]) == 0
    assert load_params(out)[1]["init"] == expected


def test_help_names_every_start_that_may_be_the_default(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    shown = "".join(capsys.readouterr().out.split())  # names may be broken at their hyphens
    said = shown[shown.index("(default:waves-steps") :].partition(")")[0]
    lengths, sides = (0.3, 1, 2.2, 4, 8), (20, 40, 224)
    may_be = {suitable_start(s * s, 256, 5, length) for s in sides for length in lengths}
    assert len(may_be) == 4 and all(name in said for name in may_be)
