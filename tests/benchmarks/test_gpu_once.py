"""The script for a GPU: its time limits and turns, carried wheels, all parts on a CPU, and the page."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_once import publish
from benchmarks.gpu_once.carry import make_data, packages_to_carry
from benchmarks.gpu_once.parts import MODELS, groups
from benchmarks.gpu_once.runner import Part, run_group
from benchmarks.gpu_once.wheels import carried_wheels, choose, install
from tests.helpers.launching import ROOT

FAST = ["versions", "peak", "steps/bert-large/1/eager", "steps/bert-large/1/transformers-flash"]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes a part of a program's text."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, text: str, **limits: float) -> Part:
        source = "import json, pathlib, sys, time\nfrom benchmarks.gpu_once.worker import *\n"
        (tmp_path / f"{name}.py").write_text(source + textwrap.dedent(text))
        return Part(name=name, module=name, arguments=[str(tmp_path)], **{"limit": 30, **limits})

    return make


def run(parts: list[Part], seconds: float = 60, jobs: int = 8) -> dict[str, dict]:
    lines = []
    run_group(parts, jobs=jobs, deadline=time.monotonic() + seconds, write=lines.append)
    return {line["part"]: line for line in lines}


def test_a_part_that_fails_or_is_too_slow_does_not_stop_the_others(program):
    lines = run(
        [
            program("good", "report({'x': 1})"),
            program("late", "print('begun'); time.sleep(60)", limit=1),
            program("late_turn", "wait_for_turn(); time.sleep(60)", turn=0.5),
            program("broken", "print('why'); sys.exit(3)"),
            program("silent", "pass"),
            program("elsewhere", "skip('no such device')"),
        ]
    )
    assert {name: line["status"] for name, line in lines.items()} == {
        "good": "ok",
        "late": "timeout",
        "late_turn": "timeout",
        "broken": "failed",
        "silent": "failed",
        "elsewhere": "skipped",
    }
    assert lines["good"]["result"] == {"x": 1}
    assert lines["late"]["output"] == ["begun"]
    assert (lines["broken"]["code"], lines["broken"]["output"]) == (3, ["why"])
    assert all(line["seconds"] < 20 for line in lines.values())


def test_turns_begin_when_all_are_prepared_and_never_overlap(program):
    text = """
        time.sleep(float({delay}))
        prepared = time.time()
        wait_for_turn()
        begin = time.time()
        time.sleep(0.2)
        report({{"prepared": prepared, "begin": begin, "end": time.time()}})
    """
    delays = [0.0, 0.1, 0.6]
    parts = [program(f"p{i}", text.format(delay=d), turn=20) for i, d in enumerate(delays)]
    results = [line["result"] for line in run(parts).values()]
    results.sort(key=lambda result: result["begin"])
    assert results[0]["begin"] >= max(result["prepared"] for result in results)
    for before, after in itertools.pairwise(results):
        assert after["begin"] >= before["end"]


def test_parts_without_time_left_are_skipped_and_each_has_its_line(program):
    parts = [program(f"p{i}", "report({})") for i in range(3)]
    lines = run(parts, seconds=0)
    assert [line["status"] for line in lines.values()] == ["skipped"] * 3
    lines = run(parts, jobs=1)
    assert [line["status"] for line in lines.values()] == ["ok"] * 3


def write_wheel(directory: Path, name: str, version: str, *needs: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        required = "".join(f"Requires-Dist: {need}\n" for need in needs)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}"
        wheel.writestr(f"{info}/METADATA", metadata)
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tag)
        wheel.writestr(f"{info}/RECORD", "")


def test_only_what_is_missing_is_installed_and_the_rest_is_named(tmp_path):
    write_wheel(tmp_path, "carried_top", "2.0", "carried-below>=1", "numpy", "absent-one>=3")
    write_wheel(tmp_path, "carried_below", "1.5")
    write_wheel(tmp_path, "numpy", "99.0")  # installed already, and new enough
    write_wheel(tmp_path, "old_one", "1.0")
    wanted = ["carried-top>=2", "numpy>=2", "old-one>=2", 'winonly; sys_platform == "win32"']
    choice = choose(wanted, carried_wheels(tmp_path))
    names = {path.name.split("-")[0] for path in choice.wheels}
    assert names == {"carried_top", "carried_below"}
    assert choice.missing == ["old-one>=2 (not installed)", "absent-one>=3 (not installed)"]
    install(choice.wheels, tmp_path / "target")
    assert {path.stem for path in (tmp_path / "target").glob("*.py")} == names


def test_an_older_package_is_replaced_by_a_carried_one(tmp_path):
    write_wheel(tmp_path, "pytest", "999.0")
    assert not choose(["pytest>=9"], carried_wheels(tmp_path)).wheels
    assert len(choose(["pytest>=99"], carried_wheels(tmp_path)).wheels) == 1


def test_what_is_carried_follows_the_requirements_up_to_what_every_image_has():
    carried = packages_to_carry(["pydantic", "torch", 'tomli; python_version < "3.12"'])
    assert {"pydantic", "pydantic-core", "typing-extensions"} <= carried.keys()
    assert not carried.keys() & {"torch", "sympy", "tomli"}


def test_the_parts_are_those_that_the_page_lists(tmp_path):
    page = publish.PAGE.read_text(encoding="utf-8")
    parts = [p.name for group in groups("cuda", tmp_path, tmp_path, 16, tiny=False) for p in group]
    assert len(set(parts)) == len(parts)
    for name in parts:
        first, last = name.split("/")[0], name.split("/")[-1]
        known = (f"`{name}`", f"`{first}/*`", f"`{first}/*/{last}`")
        assert any(text in page for text in known), name
    trained = {name for name in parts if name.startswith("train/")}
    assert len(trained) == 4 + 3 + 3 + 1
    assert sum(name.endswith("/compiled") for name in parts) == sum(map(len, MODELS.values()))


@pytest.fixture(scope="module")
def carry(tmp_path_factory):
    """Small shards of four lengths, as `make gpu-carry` makes them of a corpus."""
    directory = tmp_path_factory.mktemp("carry")
    command = ["-m", "data_prep", "sample", f"--out={directory / 'text'}"]
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    text, archive = directory / "text" / "en.txt", directory / "data.tar.xz"
    make_data(text, archive, merges=200, words=15_000)
    made = archive.stat().st_mtime_ns
    make_data(text, archive)
    assert archive.stat().st_mtime_ns == made
    return directory


def gpu_once(carry: Path, out: Path, *flags: str, code: int = 0) -> list[dict]:
    command = [sys.executable, "-m", "benchmarks.gpu_once", f"--carry={carry}", f"--out={out}"]
    done = subprocess.run([*command, *flags], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return [json.loads(line) for line in (out / "lines.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def fast_lines(carry, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    gpu_once(carry, out, "--device=cpu", "--tiny", "--minutes=30", "--only", *FAST)
    return out / "lines.jsonl"


@pytest.mark.dist
def test_some_parts_run_on_a_cpu(fast_lines):
    start, *lines, end = map(json.loads, fast_lines.read_text().splitlines())
    assert start["packages"]["missing"] == [] == start["packages"]["installed"]
    assert start["tiny"] and end["part"] == "end"
    assert {line["part"]: line["status"] for line in lines} == dict.fromkeys(FAST, "ok")
    results = {line["part"]: line["result"] for line in lines}
    ours, theirs = (results[name] for name in FAST[2:])
    assert ours["planned_gib"] > 0
    for result in (ours, theirs):
        assert all(repeat["tokens_per_s"] > 0 for repeat in result["repeats"])
        assert all(4 < repeat["loss"] < 8 for repeat in result["repeats"])  # ln 240 is 5.5


def test_waits_are_counted_by_their_place(monkeypatch):
    from benchmarks.gpu_once import part_steps  # imports DeepSpeed

    class Steps:
        def step(self):
            for _ in range(2):
                warnings.warn_explicit(part_steps.WAIT, UserWarning, "bertds/engine/engine.py", 7)
            warnings.warn("another warning", stacklevel=1)

    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    assert part_steps.find_waits(Steps()) == {"engine.py:7": 2}
    assert modes == ["warn", "default"]


@pytest.mark.slow
@pytest.mark.dist
def test_all_parts_run_on_a_cpu(carry, tmp_path):
    _start, *lines, _end = gpu_once(carry, tmp_path, "--device=cpu", "--tiny", "--minutes=60")
    groups_of_parts = groups("cpu", tmp_path, tmp_path, 2, tiny=True)
    names = {part.name for group in groups_of_parts for part in group}
    assert {line["part"] for line in lines} == names
    assert not [line for line in lines if line["status"] not in ("ok", "skipped")]
    assert (tmp_path / "trace.json.gz").exists()
    trained = [line["result"] for line in lines if line["part"].startswith("train/fp32")]
    for result in trained:
        assert all(result["checks"].values())
        assert result["losses"] == pytest.approx(trained[0]["losses"], rel=1e-5)


def test_a_trial_on_a_cpu_must_be_tiny_and_data_must_be_carried(tmp_path):
    for flags, said in ((["--device=cpu"], "add --tiny"), (["--tiny"], "make gpu-carry")):
        command = [sys.executable, "-m", "benchmarks.gpu_once", f"--carry={tmp_path}", *flags]
        command.append(f"--out={tmp_path}")
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        assert done.returncode != 0
        assert said in done.stderr and "Traceback" not in done.stderr


def test_ending_the_script_ends_its_parts(program, tmp_path):
    program("endless", f"pathlib.Path({str(tmp_path / 'begun')!r}).touch(); time.sleep(120)")
    main = f"""
        import signal, sys, time
        from benchmarks.gpu_once.runner import Part, run_group
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        part = Part(name="endless", module="endless", arguments=[{str(tmp_path)!r}], limit=100)
        run_group([part], jobs=1, deadline=time.monotonic() + 100, write=print)
    """
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(main)], env={**os.environ, "PYTHONPATH": path}
    )
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    left = subprocess.run(
        ["ps", "-wweo", "args"], check=True, capture_output=True, text=True
    ).stdout
    assert f"-m endless {tmp_path}" not in left


def publish_page(page: Path, monkeypatch, *flags: str) -> int:
    monkeypatch.setattr(sys, "argv", ["publish", f"--page={page}", *flags])
    return publish.main()


def test_without_lines_the_page_says_so(tmp_path, monkeypatch):
    page = tmp_path / "docs" / "development" / "gpu.md"
    page.parent.mkdir(parents=True)
    page.write_text(publish.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    nothing = f"--lines={tmp_path / 'none.jsonl'}"
    assert publish_page(page, monkeypatch, nothing) == 0
    assert publish.NOTHING in page.read_text(encoding="utf-8")


def test_the_committed_page_equals_the_committed_lines(monkeypatch):
    assert publish_page(publish.PAGE, monkeypatch, "--check") == 0


@pytest.mark.dist
def test_the_page_gets_tables_and_plots_of_the_last_run(fast_lines, tmp_path, monkeypatch):
    page = tmp_path / "docs" / "development" / "gpu.md"
    page.parent.mkdir(parents=True)
    page.write_text("before\n<!-- generated: gpu -->\nold\n<!-- end -->\nafter\n")
    lines = [json.loads(text) for text in fast_lines.read_text().splitlines()]
    ours = next(line for line in lines if line["part"] == "steps/bert-large/1/eager")
    memory = {"peak_gib": 6.04, "planned_gib": 5.96, "waits": {"a.py:1": 2, "b.py:3": 1}}
    ours["result"] |= memory  # measured on a GPU only
    failed = {"part": "train/bf16/zero1", "status": "failed", "code": 7, "output": []}
    earlier = {"part": "steps/bert-base/1/eager", "status": "ok", "result": {"repeats": []}}
    (tmp_path / "lines.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in [lines[0], earlier, *lines, failed])
    )
    flag = f"--lines={tmp_path / 'lines.jsonl'}"
    assert publish_page(page, monkeypatch, flag, "--check") == 1
    assert publish_page(page, monkeypatch, flag) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    rates = sorted(repeat["tokens_per_s"] for repeat in ours["result"]["repeats"])
    row = next(line for line in text.splitlines() if "| bert-large | 1 | eager" in line)
    assert f"| {rates[1]:,.0f} ({rates[0]:,.0f}-{rates[2]:,.0f}) |" in row
    assert row.endswith("| 6.0 | 6.0 | 3 |")
    assert "transformers-flash" in text and publish.TRIAL.strip() in text
    assert "bert-base" not in text
    assert "`train/bf16/zero1`: failed (exit code 7)" in text
    for name in ("gpu_tokens.png", "gpu_memory.png"):
        assert f"../images/{name}" in text
        assert (tmp_path / "docs" / "images" / name).stat().st_size > 1000
    assert publish_page(page, monkeypatch, flag, "--check") == 0
