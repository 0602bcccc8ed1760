"""The work directory of an output: its path, its lock, and how an interrupted run is resumed.

The work directory holds the unfinished work of one run. Its `recipe.json` says what the run makes,
and exists from the first task to the last. A run with the same recipe resumes the work; a run with
another recipe is rejected.
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
from bertds.io.json_files import read_json_object
from data_prep.output.manifest import (
    MANIFEST_NAME,
    Recipe,
    encode_json,
    is_up_to_date,
    read_recipe,
)
from data_prep.output.storage import LocalOutput, Output
from data_prep.sharding.rows import Split

RECIPE_NAME = "recipe.json"
_MADE_PARENT = "made-parent"  # marks a work directory whose parent the run created as well


def work_dir_path(output: Output, scratch: Path | None) -> Path:
    """Path of the work directory of an output; absolute, since workers may run elsewhere.

    Raises:
        ValueError: The output is a URL and there is no scratch directory.
    """
    if scratch is not None:
        location = output.path.absolute() if isinstance(output, LocalOutput) else output
        name = hashlib.sha256(str(location).encode()).hexdigest()[:16]
        return scratch.absolute() / f"shards-{name}"
    if isinstance(output, LocalOutput):
        return output.path / ".work"
    raise ValueError(
        f"--out is the URL {output}, which cannot hold the unfinished work: set --scratch to a "
        "directory with room for three times the size of the shards"
    )


@contextlib.contextmanager
def lock_work_dir(output: Output, work_dir: Path) -> Iterator[None]:
    """Create the work directory and lock it for this process.

    If the user's input is at fault, nothing stays behind except the work of an earlier run. The
    parent directory is removed too, if it is empty and this or the resumed run created it.

    Raises:
        FileExistsError: Another process holds the lock.
    """
    creates_parent = not work_dir.parent.exists()
    work_dir.mkdir(parents=True, exist_ok=True)
    if creates_parent:
        (work_dir / _MADE_PARENT).touch()
    with (work_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileExistsError(
                f"another process is writing {output}: wait until it ends"
            ) from error
        is_resumed = (work_dir / RECIPE_NAME).exists()
        parent_was_created = (work_dir / _MADE_PARENT).exists()
        try:
            yield
        except ValueError as error:
            if not is_resumed and not isinstance(error, RemoteError):
                remove_work_dir(work_dir)
            raise
        finally:
            if work_dir.exists() and not (work_dir / RECIPE_NAME).exists():
                remove_work_dir(work_dir)
            if parent_was_created:
                with contextlib.suppress(OSError):  # the directory is not empty
                    work_dir.parent.rmdir()


def remove_work_dir(work_dir: Path) -> None:
    """Remove a work directory, even while workers of a cluster still finish tasks in it.

    It is renamed first. The workers know only the old name, so they add nothing to the directory
    that is being removed, and leave nothing for the next run.
    """
    work_dir.rename(work_dir.with_name(f"{work_dir.name}.gone-{uuid.uuid4().hex}"))
    # All of them: an earlier run may have been killed while removing its own.
    for renamed in work_dir.parent.glob(f"{work_dir.name}.gone-*"):
        shutil.rmtree(renamed, ignore_errors=True)


def read_begun_recipe(output: Output, work_dir: Path) -> Recipe | None:
    """Read the recipe of the interrupted run, or else of the finished output; None without them.

    Raises:
        RemoteError: The server of the output cannot be reached.
    """
    path = work_dir / RECIPE_NAME
    if path.exists():
        return read_json_object(path)
    return read_recipe(output.joinpath(MANIFEST_NAME))


def start_or_resume(
    output: Output, work_dir: Path, recipe: dict[str, Any], splits: tuple[Split, ...]
) -> bool:
    """Check the recipe against the work directory and the output.

    Returns:
        True to start a new run or resume an interrupted one, False if the output is finished.

    Raises:
        FileExistsError: The work directory or the output belongs to another recipe.
        RemoteError: The server of the output cannot be reached.
    """
    path, content = work_dir / RECIPE_NAME, encode_json(recipe)
    if path.exists():
        if path.read_bytes() != content:
            raise FileExistsError(
                f"{work_dir} holds an interrupted run on other text or with other options: run the "
                "command with those again, or delete the directory"
            )
        print(f"{output}: resuming an interrupted run")
        return True
    directories = [output.joinpath(split) for split in splits]
    if is_up_to_date(output.joinpath(MANIFEST_NAME), directories, recipe):
        print(f"{output}: already finished, nothing to do")
        return False
    with atomic_write(path) as file:
        file.write(content)
    return True
