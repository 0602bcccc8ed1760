"""The unfinished work of an output: where it is, whose it is, and how an interrupted run goes on.

`recipe.json` in it says what is being made. It is there from the first task to the last, so who
finds it continues, and who finds another recipe refuses.
"""

import contextlib
import fcntl
import hashlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertds.errors import RemoteError
from bertds.io.atomic import atomic_write
from data_prep.output.manifest import MADE_NAME, as_json, is_up_to_date
from data_prep.output.storage import LocalOutput, Output
from data_prep.sharding.rows import Split

RECIPE_NAME = "recipe.json"
_MADE_PARENT = "made-parent"  # in it, where its parent is not the user's


def work_dir_of(output: Output, scratch: Path | None) -> Path:
    """Where the unfinished work of an output is; workers elsewhere need the whole path."""
    if scratch is not None:
        place = output.path.absolute() if isinstance(output, LocalOutput) else output
        name = hashlib.sha256(str(place).encode()).hexdigest()[:16]
        return scratch.absolute() / f"shards-{name}"
    if isinstance(output, LocalOutput):
        return output.path / ".work"
    raise ValueError(
        f"--out is {output}, so the unfinished work needs another place: give --scratch, a "
        "directory with room for three times the shards"
    )


@contextlib.contextmanager
def working(output: Output, work: Path) -> Iterator[Path]:
    """The work directory, for this process alone.

    An error of the user leaves nothing there, but what an earlier run had begun. The directory
    around it goes as well if it is empty and this run or the one that it continues made it.
    """
    _make(work)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileExistsError(
                f"{output} is being written by another process: wait for it"
            ) from error
        is_begun = (work / RECIPE_NAME).exists()
        made_parent = (work / _MADE_PARENT).exists()
        try:
            yield work
        except ValueError as error:
            if not is_begun and not isinstance(error, RemoteError):
                discard(work)
            raise
        finally:
            if work.exists() and not (work / RECIPE_NAME).exists():
                discard(work)
            if made_parent:
                with contextlib.suppress(OSError):
                    work.parent.rmdir()  # only where nothing is in it


def discard(work: Path) -> None:
    """Remove a work directory, also while workers of a cluster are at their last tasks in it.

    It is renamed first: they know the old name only, so nothing is added to what goes, and nothing
    of theirs is there when the next run begins.
    """
    work.rename(work.with_name(f"{work.name}.gone-{uuid.uuid4().hex}"))
    for gone in work.parent.glob(f"{work.name}.gone-*"):  # also what a killed run was removing
        shutil.rmtree(gone, ignore_errors=True)


def _make(work: Path) -> None:
    makes_parent = not work.parent.exists()
    work.mkdir(parents=True, exist_ok=True)
    if makes_parent:
        (work / _MADE_PARENT).touch()


def begin(output: Output, work: Path, recipe: dict[str, Any], splits: tuple[Split, ...]) -> bool:
    """Whether there is something to do: anew, or from where an earlier run ended.

    Raises:
        FileExistsError: The directory holds something else, whole or not.
        RemoteError: The server of the output cannot be asked.
    """
    path, content = work / RECIPE_NAME, as_json(recipe)
    if path.exists():
        if path.read_bytes() != content:
            raise FileExistsError(
                f"{work} is of an unfinished run on other text or with other options: give those, "
                "or delete it"
            )
        print(f"{output}: continued from where an earlier run ended")
        return True
    if is_up_to_date(output.at(MADE_NAME), [output.at(split) for split in splits], recipe):
        print(f"{output}: finished already, nothing to do")
        return False
    with atomic_write(path) as file:
        file.write(content)
    return True
