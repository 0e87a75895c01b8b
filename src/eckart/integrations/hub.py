"""A finished folder to the hub of Hugging Face."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from eckart.types import EckartError, Shown, UsageError

CONFIG = "config.json"
LONGEST_REASON = 300


@dataclass(frozen=True, repr=False)
class Pushed(Shown):
    """What `eckart.push` gives back.

    Attributes:
        out: the folder that was sent.
        name: of the repository.
        url: of the commit.
        files: that were in the folder, by their paths in it.
        bytes: of all of them.
    """

    out: str
    name: str
    url: str
    files: list[str]
    bytes: int

    def in_a_line(self) -> str:
        """What went where."""
        return f"{self.out}: {len(self.files)} files, {self.bytes / 1e6:,.1f} MB at {self.url}"

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each file."""
        return ("file",), ((name,) for name in self.files)


def require_pushable(name: str) -> None:
    """See before anything else is done that somebody is logged in and may write under a name.

    Raises:
        UsageError: it is no name of a repository, nobody is logged in, or the hub is not reached.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UsageError(f"{name!r} is no name at the hub: give OWNER/NAME") from None
    owner, _, rest = name.partition("/")
    if not rest:
        raise UsageError(f"{name!r} is no name at the hub: give OWNER/NAME")
    if constants.is_offline_mode():
        raise UsageError("HF_HUB_OFFLINE is set: nothing can be pushed")
    if huggingface_hub.get_token() is None:
        raise UsageError("nobody is logged in at the hub: run hf auth login, or set HF_TOKEN")
    try:
        known = huggingface_hub.whoami()
    except Exception as error:  # of whichever transport the library uses
        raise UsageError(f"the hub does not know who pushes: {_reason(error)}") from None
    own = {known["name"], *(each["name"] for each in known.get("orgs") or [])}
    if owner not in own:
        raise UsageError(f"{name}: {owner} is neither you ({known['name']}) nor an organization of yours")


def push(folder: Path, name: str, private: bool) -> Pushed:
    """Send a folder as one commit; what the hub has of it already is not sent again.

    Raises:
        EckartError: it did not arrive; nothing of it is seen there.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    try:
        huggingface_hub.create_repo(name, private=private, exist_ok=True)
        commit = huggingface_hub.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Upload a model compressed by Eckart"
        )
    except Exception as error:  # of whichever transport the library uses
        raise EckartError(
            f"{folder} is whole and did not arrive at {name}: {_reason(error)}; eckart push {folder} {name} "
            "goes on, and sends nothing twice"
        ) from error
    return Pushed(
        out=str(folder),
        name=name,
        url=str(commit.commit_url),
        files=[path.relative_to(folder).as_posix() for path in files],
        bytes=sum(path.stat().st_size for path in files),
    )


def require_model(folder: Path) -> None:
    """Raises UsageError where a folder holds no model."""
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{folder} holds no model: there is no {CONFIG} in it")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
