"""The unfinished work of an output: where it is, whose it is, and how an interrupted run goes on.

`recipe.json` in it says what is being made. It is there from the first task to the last, so who
finds it continues, and who finds another recipe refuses.
"""

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertds.data.remote import RemoteError
from bertds.replacing import replacing
from data_prep.made import MADE_NAME, as_json, is_made
from data_prep.outputs import Folder, Output
from data_prep.scatter import Split

RECIPE_NAME = "recipe.json"


def work_dir_of(output: Output, scratch: Path | None) -> Path:
    """Where the unfinished work of an output is; workers elsewhere need the whole path."""
    if scratch is not None:
        name = hashlib.sha256(str(output).encode()).hexdigest()[:16]
        return scratch.absolute() / f"shards-{name}"
    if isinstance(output, Folder):
        return output.path / ".work"
    raise ValueError(
        f"--out is {output}, so the unfinished work needs another place: give --scratch, a "
        "directory with room for three times the shards"
    )


@contextlib.contextmanager
def working(output: Output, work: Path) -> Iterator[Path]:
    """The work directory, for this process alone.

    An error of the user leaves nothing there, but what an earlier run had begun.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileExistsError(
                f"{output} is being written by another process: wait for it"
            ) from error
        is_begun = (work / RECIPE_NAME).exists()
        try:
            yield work
        except ValueError as error:
            if not is_begun and not isinstance(error, RemoteError):
                shutil.rmtree(work)
            raise
        finally:
            if work.exists() and not (work / RECIPE_NAME).exists():
                shutil.rmtree(work)
            with contextlib.suppress(OSError):
                work.parent.rmdir()  # only where nothing is in it


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
    if is_made(output.at(MADE_NAME), [output.at(split) for split in splits], recipe):
        print(f"{output}: finished already, nothing to do")
        return False
    with replacing(path) as file:
        file.write(content)
    return True
