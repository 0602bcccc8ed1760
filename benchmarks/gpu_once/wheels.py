"""Installs what a machine without network lacks of the project's requirements, from carried wheels.

    python -m benchmarks.gpu_once.wheels    exit with code 1, and name what is missing, if anything is

Needs nothing but Python and pip, because it runs before anything is installed.
"""

import subprocess
import sys
import tomllib
import zipfile
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, PathDistribution, version
from pathlib import Path

try:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
except ImportError:  # pip's copy, which setuptools cannot be imported after
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("hypothesis", "pytest>=9", "pytest-timeout>=2.3", "pytest-xdist>=3.6")
PEERS = ("transformers>=5",)
"""Only the parts that compare with it need it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be installed, and what cannot be."""

    wheels: list[Path]
    missing: list[str]
    """Requirements that neither an installed package nor a carried wheel meets."""


def project_requirements() -> list[str]:
    """Return the requirements of the project and of its GPU tests."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return [*tomllib.load(file)["project"]["dependencies"], *TESTS]


def carried_wheels(directory: Path) -> dict[str, PathDistribution]:
    """Return the packages of a directory of wheels by name; without a directory there are none."""
    return {
        canonicalize_name(path.name.split("-")[0]): _metadata(path)
        for path in sorted(directory.glob("*.whl"))
    }


def choose(requirements: Iterable[str], carried: Mapping[str, PathDistribution]) -> Choice:
    """Choose the wheels that meet what no installed package meets, with all that they need."""
    chosen: dict[str, Path] = {}
    missing: list[str] = []
    queue = deque(dict.fromkeys(requirements))
    while queue:
        requirement = Requirement(queue.popleft())
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        found = _installed_version(name)
        if not applies or name in chosen or _meets(found, requirement):
            continue
        wheel = carried.get(name)
        if wheel is None or not _meets(wheel.version, requirement):
            missing.append(f"{name}{requirement.specifier} ({found or 'not'} installed)")
        else:
            chosen[name] = Path(wheel._path.root.filename)
            queue.extend(wheel.requires or [])
    return Choice(list(chosen.values()), missing)


def install(wheels: list[Path], target: Path) -> None:
    """Unpack wheels into a directory, which `PYTHONPATH` is to name.

    Raises:
        CalledProcessError: pip failed; it has printed why.
    """
    flags = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
    command = [sys.executable, "-m", "pip", "install", *flags, f"--target={target}"]
    if wheels:
        subprocess.run([*command, *map(str, wheels)], check=True)


def _metadata(wheel: Path) -> PathDistribution:
    archive = zipfile.ZipFile(wheel)
    (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    return PathDistribution(zipfile.Path(archive, f"{info}/"))


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _meets(found: str | None, requirement: Requirement) -> bool:
    return found is not None and requirement.specifier.contains(found, prereleases=True)


if __name__ == "__main__":
    lacking = choose(project_requirements(), {}).missing
    print("\n".join(f"missing: {text}" for text in lacking))
    sys.exit(bool(lacking))
