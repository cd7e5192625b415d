"""The rules of the public benchmark, as the leaderboard and the documents show them."""

from __future__ import annotations

from hyperinit.record.tracks import TRACKS

_TRACKS = " ".join(f"{row.name}: {row.meaning}" for row in TRACKS.values())

# Title -> rule.
RULES: dict[str, str] = {
    "What an init may see": (
        "The image, at the size at which it will be fitted, a seed, and the width and depth of the"
        " SIREN. It returns all weights and biases, and nothing else: it may not change the fit or"
        " keep state from one image to the next. It may have been made from other images, which it"
        " must name."
    ),
    "What is on the clock": (
        "In epochs: every look at a pixel of the image, including those that make the start. In"
        " seconds: everything from the image to the first weight, and every step. Not counted are"
        " evaluations, the choice of learning rates, and everything done before the image was"
        " given, such as training a hypernetwork. Seconds are compared only within one machine."
    ),
    "Which images an init may be tested on": (
        "An init is not tested on an image that it was made from or chosen by, nor on a crop of the"
        " same photograph; hashes of both are compared. A trained init that does not name its"
        " images cannot be on the leaderboard. Learning rates are chosen on tuning images, in the"
        " same way for every init, and no tuning image is a test image."
    ),
    "How inits are fitted": (
        "Only fits of the same track, protocol version, image size and network are compared."
        f" {_TRACKS}"
    ),
    "What counts": (
        "Every fit that was declared, including those that diverged or never reached a target. What"
        " a run declares is written down before it starts, and a submission that lacks any of it is"
        " refused. A changed init is another init, and both are shown."
    ),
    "What a submission has": (
        "The plan, every record with its whole curve, the SHA-256 of the init's code, the protocol"
        " and its version, the machine, and the hashes of all images. It is measured on one"
        " machine, and submitted as a pull request together with the init's code."
    ),
}


def rules_markdown() -> str:
    """The rules as Markdown; ends in a newline."""
    return "\n".join(f"**{title}.** {text}\n" for title, text in RULES.items())
