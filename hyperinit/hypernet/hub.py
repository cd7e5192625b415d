"""A trained module <-> a folder or a Hugging Face Hub repository with its checkpoint and card.

The file is a checkpoint like any other: it keeps the hashes of the images that the module was
trained on, it is verified when it is opened, and the folder can be given wherever a run directory
can. We do not use huggingface_hub's PyTorchModelHubMixin, which has its own format and must be
installed when the classes are defined. Here, only what needs the Hub imports it (extra `hub`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from hyperinit.base.errors import InputError
from hyperinit.base.extras import need
from hyperinit.base.files import make_directory, numbered, read_small, shown_path, write_atomically
from hyperinit.base.outputs import check_output
from hyperinit.siren.store import CHECKPOINT_NAME, save_tensors, tensors_hash

if TYPE_CHECKING:
    from typing_extensions import Self

    from hyperinit.hypernet.learned import LearnedInit
    from hyperinit.hypernet.network import HyperNetwork

CARD_NAME = "README.md"
HUB_PREFIX = "hub:"  # commands accept hub:OWNER/NAME or hub:OWNER/NAME@REVISION as a checkpoint

# The facts of a checkpoint that are shared; a machine's paths and loggers stay private.
KEPT = ("train_hashes", "step", "train_sec", "torch", "commit")

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_OUR_LINE = "library_name: hyperinit"
_HEADER = f"""\
---
{_OUR_LINE}
tags:
- siren
- implicit-neural-representation
- weight-initialization
---
"""


@dataclass(frozen=True)
class Origin:
    """The file that a module was read from.

    Attributes:
        path: The file.
        facts: Its facts about the module.
    """

    path: Path
    facts: Mapping[str, Any]


class Shared:
    """Lets a trained module be saved to a folder or the Hub, and read from there.

    Attributes:
        kind: The kind of its checkpoints, see `save_tensors`.
        prefix: The prefix of its tensors in them.
        origin: Where it was read from; None if it was made in this process.
    """

    kind: ClassVar[str]
    prefix: ClassVar[str]
    origin: Origin | None = None

    def save_pretrained(
        self, directory: str | os.PathLike[str], *, results: str = "", title: str = ""
    ) -> None:
        """Writes checkpoint.safetensors and a model card, README.md, into a folder.

        The optimiser and the run's paths are left out. If a card lies beside the file that the
        module was read from, it is copied. Otherwise one is made from the file's facts, and from
        the last comparison beside it, if that is of these parameters.

        Args:
            directory: Created if it is missing; a checkpoint in it is replaced.
            results: Markdown for the card's section "Results", such as `hyperinit score` prints.
            title: The card's title; "" is the folder's name.

        Raises:
            InputError: the folder cannot be written to, or holds another README.md.
        """
        folder = Path(directory)
        make_directory(folder)
        card = folder / CARD_NAME
        if card.exists() and not _is_our_card(_text(card)):
            raise InputError(f"{shown_path(card)}: exists and is not a model card of ours")
        path = folder / CHECKPOINT_NAME
        check_output(path, [".safetensors"], self.kind)
        text = model_card(self, title or folder.resolve().name, results)
        module: Any = self
        tensors = {f"{self.prefix}/{k}": value for k, value in module.state_dict().items()}
        save_tensors(path, tensors, self.kind, shared_facts(self))
        write_atomically(card, text.encode())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        results: str = "",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a trained init",
    ) -> str:
        """Writes the files of `save_pretrained` to a repository on the Hub (extra `hub`).

        Args:
            repo_id: "OWNER/NAME"; created if it is missing.
            results: See `save_pretrained`.
            private: Whether a newly created repository is private; None: the owner's default.
            token: As for huggingface_hub; None: that of its login.
            revision: The branch; None: main.
            commit_message: The message of the commit.

        Returns:
            The URL of the commit.

        Raises:
            InputError: huggingface_hub is missing, the owner does not exist, or the Hub cannot be
                reached.
        """
        _check_repository(repo_id)
        api = need("hub").HfApi(token=token)
        with tempfile.TemporaryDirectory(prefix="hyperinit-hub-") as folder:
            self.save_pretrained(folder, results=results, title=repo_id)
            try:
                api.create_repo(repo_id, private=private, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    commit_message=commit_message,
                    revision=revision,
                )
            except Exception as error:  # from the package, its HTTP client or the server
                raise InputError(f"{repo_id}: cannot be pushed ({_reason(error)})") from error
        return str(getattr(commit, "commit_url", commit))

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **options: Any) -> Self:
        """Opens what `save_pretrained` or `push_to_hub` wrote; see `hyperinit.from_pretrained`.

        Raises:
            InputError: as there, or it is another kind of trained init.
        """
        model = from_pretrained(source, **options)
        if not isinstance(model, cls):
            raise InputError(
                f"{shown_path(source)}: is a {type(model).__name__}, not a {cls.__name__}; open it"
                " with hyperinit.from_pretrained"
            )
        return model


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> HyperNetwork | LearnedInit:
    """Opens a trained init from a folder, from the Hub, or one that comes with the package.

    Its checksum and all its facts are verified, wherever it comes from. No code is run.

    Args:
        source: A folder, run directory or checkpoint file; a name such as "photo-96"; or the
            "OWNER/NAME" of a repository on the Hugging Face Hub (extra `hub`).
        revision: A branch or tag of the repository or, to pin it, a commit.
        token: For the Hub. This and the following three arguments are huggingface_hub's.
        cache_dir: Where downloads are kept.
        local_files_only: Use only files that were downloaded before.
        force_download: Download again even if the file was downloaded before.

    Raises:
        InputError: there is none, it cannot be fetched, or its file is damaged or of another kind.
    """
    from hyperinit.hypernet.pretrained import PRETRAINED, load_pretrained, load_trained

    if os.path.exists(source):
        return load_trained(Path(source))[0]
    name = os.fspath(source)
    if name in PRETRAINED:
        return load_pretrained(name)
    path = _fetched(
        name,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    return load_trained(path)[0]


def local_checkpoint(source: str) -> str:
    """A command's checkpoint argument -> a path; "hub:OWNER/NAME@REVISION" is fetched.

    Raises:
        InputError: it cannot be fetched.
    """
    if not source.startswith(HUB_PREFIX) or os.path.exists(source):
        return source
    name, _, revision = source.removeprefix(HUB_PREFIX).partition("@")
    return str(_fetched(name, revision=revision or None))


def _fetched(name: str, **options: Any) -> Path:
    """The path of a repository's checkpoint in huggingface_hub's cache."""
    _check_repository(name)
    try:
        return Path(need("hub").hf_hub_download(name, CHECKPOINT_NAME, **options))
    except InputError:
        raise
    except Exception as error:  # from the package, its HTTP client or the server
        raise InputError(f"{name}: cannot be fetched ({_reason(error)})") from error


def _check_repository(name: str) -> None:
    if not _REPOSITORY.fullmatch(name):
        raise InputError(
            f"{shown_path(name)}: no such file or directory, and not the OWNER/NAME of a repository"
        )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


def shared_facts(model: Any) -> dict[str, Any]:
    """The facts in a shared file: what the module is, and what it was trained on."""
    known = dict(model.origin.facts) if model.origin else {}
    facts = {**model.facts, **{key: known[key] for key in KEPT if key in known}}
    facts.setdefault("torch", torch.__version__)
    hashes = facts.get("train_hashes")
    if hashes is not None and not (
        isinstance(hashes, list) and all(isinstance(entry, str) for entry in hashes)
    ):
        raise InputError(f"{shown_path(model.origin.path)}: train_hashes must be a list of texts")
    size = _size(known)
    return facts | ({"train": {"size": size}} if size else {})


def model_card(model: Any, title: str, results: str = "") -> str:
    """The card of a module as Markdown, with the Hub's header.

    Args:
        model: A hypernetwork or a learned init.
        title: The card's heading.
        results: Markdown for the section "Results".
    """
    text = _card_beside(model.origin)
    if text is None:
        text = _card_of_facts(model, title)
        if compared := _comparison(model):
            results = f"{_COMPARED}\n\n{compared.strip()}\n\n{results}"
    if results.strip():
        text = f"{text.rstrip()}\n\n## Results\n\n{results.strip()}\n"
    return text if text.startswith("---\n") else _HEADER + text


_MOST_RECORDS = 2**28  # bytes
_COMPARED = "At the end of its training, on photographs that it was not trained on:"


def _comparison(model: Any) -> str:
    """The table of the last comparison beside a module's file; "" if its records are of another
    state of the run, which has gone on since.
    """
    if model.origin is None:
        return ""
    files = (model.origin.path.with_name(f"{name}.jsonl") for name in numbered("comparison"))
    own, table = tensors_hash(model.state_dict()).encode(), ""
    for file in itertools.takewhile(Path.is_file, files):
        with contextlib.suppress(InputError):
            if own in read_small(file, _MOST_RECORDS):
                table = _text(file.with_suffix(".md")) or table
    return table


def _card_beside(origin: Origin | None) -> str | None:
    """The card that lies beside a module's file, if there is one."""
    if origin is None:
        return None
    own = _text(origin.path.with_suffix(".md"))  # the cards that come with the package
    if own.startswith(f"# {origin.path.stem}\n"):
        return own
    readme = _text(origin.path.with_name(CARD_NAME))
    return readme if _is_our_card(readme) else None


def _card_of_facts(model: Any, title: str) -> str:
    facts, siren = shared_facts(model), model.config.siren
    size = _size(facts)
    of_size = f" of about {size} x {size} pixels" if size else ""
    what = "hypernetwork" if "hypernetwork" in model.facts else "learned init"
    coords = "unit std" if siren.unit_std_coords else "[-1, 1]"
    count = sum(value.numel() for value in model.state_dict().values())
    rows = {
        "numbers in it": f"{count:,}",
        "learning rate of fits from it": f"{model.config.lr_factor:g} times the default",
        "outer steps": facts.get("step"),
        "training": f"{facts['train_sec']:.0f} s" if _is_number(facts.get("train_sec")) else None,
        "torch": facts.get("torch"),
        "commit": facts.get("commit"),
    }
    made = "".join(f"| {name} | {_cell(value)} |\n" for name, value in rows.items() if value)
    hashes = facts.get("train_hashes")
    data = (
        f"{len(hashes):,} photographs, whose hashes are in the file: the benchmark refuses to test"
        " it on any of them."
        if hashes
        else "The file does not say what it was trained on, so test it with care."
    )
    return f"""\
# {_cell(title)}

A {what} of hyperinit: it outputs the initial weights and biases of a SIREN of \
{siren.depth} x {siren.width} (omega_0 {siren.omega_0:g}, coordinates of {coords}) for an \
image{of_size}.

```python
import hyperinit

model = hyperinit.from_pretrained("{_cell(title)}")
start = model.start(hyperinit.load_image("photo.jpg"))
```

## How it was made

| what | value |
| --- | --- |
{made}
## Data

{data}

## File

`{CHECKPOINT_NAME}` holds tensors and facts, no code; its checksum is verified when it is opened.
"""


def _size(facts: Mapping[str, Any]) -> int | None:
    train = facts.get("train")
    size = train.get("size") if isinstance(train, Mapping) else None
    return size if type(size) is int and size > 0 else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: object) -> str:
    """A value on one line of a table, with Markdown's markup characters removed."""
    text = " ".join(str(value).split())[:120]
    return re.sub(r"[|`<>\[\]\\\"]", " ", text)


def _is_our_card(text: str) -> bool:
    return text.startswith("---\n") and _OUR_LINE in text.split("\n---\n")[0].splitlines()


def _text(path: Path) -> str:
    """The content of a small text file, or "" if there is none."""
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size < 2**20 else ""
    except (OSError, UnicodeDecodeError):
        return ""
