"""Part: the tests marked `gpu`. Only their files are collected, which need fewer packages than all do.

python -m benchmarks.gpu_once.part_tests PROCESSES
"""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu_once.worker import report

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run the tests; exit with pytest's code."""
    marked = [
        str(path)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "mark.gpu" in path.read_text(encoding="utf-8")
    ]
    parallel = [f"-n{sys.argv[1]}"] if find_spec("xdist") else []
    with tempfile.TemporaryDirectory() as directory:
        results = Path(directory, "results.xml")
        flags = ["-m", "gpu", "-p", "no:cacheprovider", f"--junit-xml={results}", *parallel]
        command = [sys.executable, "-m", "pytest", *flags, *marked]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        (suite,) = ET.parse(results).getroot()
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    failed = [
        f"{case.attrib['classname']}::{case.attrib['name']}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    report({**counts, "failed": failed})
    sys.exit(code)


if __name__ == "__main__":
    main()
