"""The Python API: the README's examples as they stand, and what they leave unsaid."""

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

README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```", README.partition("## From Python")[2], re.MULTILINE | re.DOTALL
)


THREADS = """
import atexit, contextlib, pathlib

def tell_threads(when):
    names = []
    for name in pathlib.Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # a thread that ends meanwhile
            names.append(name.read_text().strip())
    print(f"{when}:", *names)

atexit.register(tell_threads, "at the end")
"""


def data_prep(directory: Path, *words: str) -> None:
    command = [sys.executable, "-m", "data_prep", *words]
    env = environment() | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=directory, env=env, check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the case files and a small sample corpus, where the examples have run."""
    directory = tmp_path_factory.mktemp("api")
    (directory / "ds_configs").symlink_to(ROOT / "ds_configs")
    both = "data/sample/text/ko.txt,data/sample/text/en.txt"
    data_prep(directory, "sample", "--out=data/sample/text", "--sentences=1500")
    data_prep(
        directory,
        *("tokenizer", f"--input={both}", "--merges=400", "--lowercase"),
        "--out=data/sample/tokenizer.json",
    )
    data_prep(
        directory,
        *("shard", f"--input={both}", "--tokenizer=data/sample/tokenizer.json"),
        *("--nospecial_tokens", "--out=data/sample", "--workers=1"),
    )
    # Threads of gloo's that are still there at the end abort one process in hundreds.
    program = "\n".join([THREADS, *EXAMPLES, "tell_threads('in use')"])
    env = environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    in_use, at_the_end = (
        re.search(f"^{when}: (.*)", done.stdout, re.MULTILINE)[1]
        for when in ("in use", "at the end")
    )
    assert "gloo" in in_use
    assert "gloo" not in at_the_end
    assert len(re.findall(r"^ ?\d+\.\d%  ", done.stdout, re.MULTILINE)) == 5  # the guesses
    return directory


def test_the_examples_of_the_readme_run(repository: Path) -> None:
    assert len(EXAMPLES) == 3
    for run, steps in (("sample/main", 150), ("continued/sample/main", 120)):
        status = read_json(repository / "runs" / run / "status.json")
        assert (status["state"], status["step"]) == ("done", steps)


def test_a_text_has_the_same_states_alone_and_among_others(repository: Path) -> None:
    model = load_model(repository / "runs/sample/main")
    texts = ["a strange wolf", "", "그 기자가 그 편집자를", "later the ranger in the forest"]
    together = model.encode(texts)
    assert [len(states) for states in together] == [len(model.trained.encode(t)) for t in texts]
    for text, states in zip(texts, together, strict=True):
        (alone,) = model.encode([text])
        torch.testing.assert_close(states, alone, rtol=1e-4, atol=1e-5)


def test_a_finished_run_is_given_back_and_says_what_has_no_effect(
    repository: Path, told: pytest.LogCaptureFixture
) -> None:
    def again(settings: str) -> str:
        told.clear()
        case = Case.read(ROOT / "ds_configs/sample.json", settings=settings)
        run_dir = train(case, repository / "data", repository / "runs")
        assert run_dir == repository / "runs/sample/main"
        return told.text

    assert "no effect" not in again("run.max_steps=150")
    assert "no effect: optimizer.params.lr" in again("run.max_steps=150,optimizer.params.lr=1e-5")


def test_an_arm_must_be_named_where_there_are_several() -> None:
    assert Case.read(ROOT / "ds_configs/sample.json").arm == "main"
    assert Case.read(ROOT / "ds_configs/case7.json", "decay1e-4").name == "case6"
    with pytest.raises(ConfigError, match="wanted is one of decay1e-4, decay1e-5, decay1e-6"):
        Case.read(ROOT / "ds_configs/case7.json")


def test_the_package_is_imported_without_torch() -> None:
    program = "import sys, bertds; bertds.Case; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        import bertds

        bertds.nothing  # noqa: B018
