"""Tests and measures the project on one GPU, in eight minutes and without network.

    python -m benchmarks.gpu_once [--carry data/gpu_carry] [--out data/gpu_once] [--minutes 8]
    python -m benchmarks.gpu_once --device cpu --tiny       tries all parts on any machine
    python -m benchmarks.gpu_once --only 'train/*' 'peak'   some parts

Before, run `make gpu-carry` on a machine with network, and copy its directory. One JSON line per part is
appended to OUT/lines.jsonl. The exit code is 1 if a part failed or was too slow.
"""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.gpu_once.parts import groups
from benchmarks.gpu_once.runner import run_group
from benchmarks.gpu_once.wheels import PEERS, carried_wheels, choose, install, project_requirements

DATA = "data.tar.xz"


class Lines:
    """The file of results, which grows as the parts end."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self.failed: list[str] = []

    def write(self, line: dict[str, Any]) -> None:
        """Append a line, and say how the part ended."""
        with self._lock:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            status = line.get("status", "")
            if status in ("failed", "timeout"):
                self.failed.append(line["part"])
                print("\n".join(line["output"]), flush=True)
            print(f"{line['part']:<40} {status:<8} {line.get('seconds', '')}", flush=True)


def install_carried(carry: Path, target: Path) -> dict[str, Any]:
    """Install what is missing into `target`, for all parts; say what is still missing."""
    carried = carried_wheels(carry / "wheels")
    needed = choose(project_requirements(), carried)
    peers = choose(PEERS, carried)
    install(list(dict.fromkeys([*needed.wheels, *peers.wheels])), target)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(target), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    for text in [*needed.missing, *peers.missing]:
        print(f"missing, and not carried: {text}", flush=True)
    return {
        "installed": sorted(wheel.name for wheel in {*needed.wheels, *peers.wheels}),
        "missing": needed.missing,
        "missing_for_peers": peers.missing,
    }


def unpack_data(carry: Path, work: Path) -> Path:
    """Return the directory of the carried shards."""
    archive = carry / DATA
    if not archive.is_file():
        raise SystemExit(f"{archive} does not exist: run `make gpu-carry` first, or give --carry")
    with tarfile.open(archive) as tar:
        tar.extractall(work, filter="data")
    return work


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--carry", type=Path, default=Path("data/gpu_carry"))
    parser.add_argument("--out", type=Path, default=Path("data/gpu_once"))
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the program")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of part names")
    return parser


def describe_start(options: argparse.Namespace, packages: dict[str, Any]) -> dict[str, Any]:
    """Return the first line: when, how and with which packages."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    command = " ".join(["python -m benchmarks.gpu_once", *sys.argv[1:]])
    sizes = {"device": options.device, "tiny": options.tiny}
    return {"part": "start", "date": now, "command": command, **sizes, "packages": packages}


def main() -> int:
    """Install, unpack, run all groups; return the exit code."""
    begin = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = make_parser()
    options = parser.parse_args()
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu is only for trying the program: add --tiny")
    options.out.mkdir(parents=True, exist_ok=True)
    lines = Lines(options.out / "lines.jsonl")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        data = unpack_data(options.carry, work / "data")
        try:
            packages = install_carried(options.carry, work / "packages")
        except subprocess.CalledProcessError:
            return 1
        lines.write(describe_start(options, packages))
        if options.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # Its own, because a compilation that was killed leaves a torn file behind.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(work / "compiled")
        deadline = begin + 60 * options.minutes
        for group in groups(options.device, data, options.out, options.jobs, tiny=options.tiny):
            chosen = [p for p in group if any(fnmatch(p.name, only) for only in options.only)]
            run_group(chosen, jobs=options.jobs, deadline=deadline, write=lines.write)
    lines.write({"part": "end", "seconds": round(time.monotonic() - begin, 1)})
    return int(bool(lines.failed))


if __name__ == "__main__":
    sys.exit(main())
