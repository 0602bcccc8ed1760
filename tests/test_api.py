"""The Python API: the examples of the documentation run as they are, and properties they do not show."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bertds import Case, load_model, train
from bertds.errors import ConfigError
from bertds.io.json_files import read_json
from tests.helpers.launching import ROOT, environment

PAGES = [page for page in (ROOT / "README.md", ROOT / "docs/python-api.md") if page.is_file()]
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
EXAMPLES = list(dict.fromkeys(BLOCKS))  # a page may repeat one of another page


# Prints the names of this process's threads, now and at exit.
THREADS = """
import atexit, contextlib, pathlib

def print_threads(when):
    names = []
    for name in pathlib.Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # a thread that ends meanwhile
            names.append(name.read_text().strip())
    print(f"{when}:", *names)

atexit.register(print_threads, "at exit")
"""


def run_python(directory: Path, *arguments: str) -> str:
    """Run Python in a directory, with the repository importable; its stdout."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the case files and a small sample corpus, in which the examples have run."""
    directory = tmp_path_factory.mktemp("api")
    (directory / "ds_configs").symlink_to(ROOT / "ds_configs")
    texts = "--input=data/sample/text/ko.txt,data/sample/text/en.txt"
    tokenizer = "data/sample/tokenizer.json"
    for arguments in (
        ("sample", "--out=data/sample/text", "--sentences=1500"),
        ("tokenizer", texts, "--merges=400", "--lowercase", f"--out={tokenizer}"),
        ("shard", texts, f"--tokenizer={tokenizer}", "--nospecial_tokens", "--out=data/sample",
         "--workers=1"),
    ):  # fmt: skip
        run_python(directory, "-m", "data_prep", *arguments)
    program = "\n".join([THREADS, *EXAMPLES, "print_threads('in use')"])
    stdout = run_python(directory, "-c", program)
    in_use, at_exit = (
        re.search(f"^{when}: (.*)", stdout, re.MULTILINE)[1] for when in ("in use", "at exit")
    )
    # Gloo threads that are left at exit abort one process in hundreds.
    assert "gloo" in in_use
    assert "gloo" not in at_exit
    assert len(re.findall(r"^ ?\d+\.\d%  ", stdout, re.MULTILINE)) >= 5  # printed predictions
    return directory


def test_training_something_else_than_a_case_gets_one_message():
    for wrong in ("ds_configs/sample.json", None, {}):
        with pytest.raises(TypeError, match="expected the result of Case.read"):
            train(wrong)


def test_examples_of_the_documentation_run(repository: Path) -> None:
    assert len(EXAMPLES) >= 3
    for run, steps in (("sample/main", 150), ("continued/sample/main", 120)):
        status = read_json(repository / "runs" / run / "status.json")
        assert (status["state"], status["step"]) == ("done", steps)


def test_hidden_states_do_not_depend_on_other_texts(repository: Path) -> None:
    model = load_model(repository / "runs/sample/main")
    texts = ["a strange wolf", "", "그 기자가 그 편집자를", "later the ranger in the forest"]
    together = model.encode(texts)
    assert [len(states) for states in together] == [len(model.trained.encode(t)) for t in texts]
    for text, states in zip(texts, together, strict=True):
        (alone,) = model.encode([text])
        torch.testing.assert_close(states, alone, rtol=1e-4, atol=1e-5)


def test_finished_run_is_returned_with_a_warning_about_changed_settings(
    repository: Path, told: pytest.LogCaptureFixture
) -> None:
    def train_again(settings: str) -> str:
        told.clear()
        case = Case.read(ROOT / "ds_configs/sample.json", settings=settings)
        run_dir = train(case, repository / "data", repository / "runs")
        assert run_dir == repository / "runs/sample/main"
        return told.text

    assert "optimizer.params.lr" not in train_again("run.max_steps=150")
    log = train_again("run.max_steps=150,optimizer.params.lr=1e-5")
    assert "no effect" in log
    assert "optimizer.params.lr" in log


def test_arm_is_required_if_there_are_several() -> None:
    assert Case.read(ROOT / "ds_configs/sample.json").arm == "main"
    assert Case.read(ROOT / "ds_configs/case7.json", "decay1e-4").name == "case6"
    with pytest.raises(ConfigError, match="decay1e-4, decay1e-5, decay1e-6"):
        Case.read(ROOT / "ds_configs/case7.json")


def test_no_subpackage_hides_a_name_of_the_api() -> None:
    """Importing a subpackage sets it as an attribute of `bertds`."""
    check = (
        "assert all(getattr(bertds, name) is getattr(bertds.api, name) for name in bertds.__all__)"
    )
    run_python(ROOT, "-c", f"import bertds.api; {check}")


def test_package_is_imported_without_torch() -> None:
    run_python(ROOT, "-c", "import sys, bertds; bertds.Case; assert 'torch' not in sys.modules")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        import bertds

        bertds.nothing  # noqa: B018
