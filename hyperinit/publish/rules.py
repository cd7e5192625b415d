"""The rules of the benchmark that others join, as the leaderboard and the documents show them."""

from __future__ import annotations

from hyperinit.record.tracks import TRACKS

_TRACKS = " ".join(f"{row.name}: {row.meaning}" for row in TRACKS.values())

# Title -> what holds.
RULES: dict[str, str] = {
    "What an init may see": (
        "The image, as large as it will be fitted, a seed, and the width and depth of the SIREN. It"
        " gives all weights and biases, and nothing else: no change of the fit, no state that is"
        " kept from one image to the next. It may have been made from other images, which it names."
    ),
    "What is on the clock": (
        "In epochs: every look at a pixel of the image, those that make the start included. In"
        " seconds: everything from the image to the first weight, and every step. Evaluations, the"
        " choice of learning rates, and what was done before the image was there, such as training"
        " a hypernetwork, are on nobody's clock. Seconds are compared within one machine only."
    ),
    "Who may not be tested on what": (
        "An init is not tested on an image that it was made from or chosen by, nor on a crop of the"
        " same photograph: hashes of both are compared. A trained init that does not name its"
        " images is not for the leaderboard. Learning rates are chosen on tuning images, for every"
        " init alike, and none of these is a test image."
    ),
    "How inits are fitted": (
        "Only fits of one track, one version of the protocol, one image size and one network are"
        f" compared. {_TRACKS}"
    ),
    "What counts": (
        "Every fit that was declared, those that diverged or never reached a target included. What"
        " a run declares is written down before it starts, and a submission has all of it or is"
        " refused. A changed init is another init, and both are shown."
    ),
    "What a submission has": (
        "The plan, every record with its whole curve, the SHA-256 of the init's code, the protocol"
        " and its version, the machine, and the hashes of all images. It is measured on one"
        " machine, and goes into a pull request together with the init's code."
    ),
}


def rules_markdown() -> str:
    """The rules as Markdown, which ends in a newline."""
    return "\n".join(f"**{title}.** {text}\n" for title, text in RULES.items())
