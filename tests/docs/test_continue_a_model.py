"""The commands of the page "Continue a model from the Hub", as a user types them.

The Hub is a local one. Its models are small and random, one of each class.
"""

import gzip
import os
import re
import socket
import subprocess

import pytest
from safetensors.torch import load_file

from tests.helpers.hub_models import MODELS, save_model
from tests.helpers.hub_server import serving_hub
from tests.helpers.launching import ROOT, lines_of

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.dist
NAME = "google-bert/bert-base-uncased"  # of the page


def blocks() -> list[str]:
    """The shell blocks of the page."""
    page = (ROOT / "docs" / "continue-a-model.md").read_text(encoding="utf-8")
    return re.findall(r"```sh\n(.*?)```", page, re.DOTALL)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.mark.parametrize(
    "name",
    [each if each == "bert" else pytest.param(each, marks=pytest.mark.slow) for each in MODELS],
)
def test_five_commands_lead_from_a_download_to_an_exported_model(tokenizer, lines, tmp_path, name):
    """And those of the next block show what was gained."""
    source, here = save_model(tokenizer, tmp_path / "source", name), tmp_path / "here"
    here.mkdir()
    (here / "launch").symlink_to(ROOT / "launch")
    with gzip.open(here / "corpus.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines["en"][:40]))
    commands, gained, *_ = blocks()
    assert len(re.findall(r"^[^#\s]", commands, re.MULTILINE)) == 5
    commands = commands.replace("deepspeed launch", f"deepspeed --master_port {free_port()} launch")
    has_head = name != "bare_bert"
    if not has_head:  # there is nothing to evaluate before the training
        gained = re.sub(r"^python -m bertds evaluate bert .*\n", "", gained, flags=re.MULTILINE)
    with serving_hub() as hub:
        hub.add(NAME, source)
        environment = os.environ | hub.environment(tmp_path / "home") | {"PYTHONPATH": str(ROOT)}
        finished = subprocess.run(
            ["bash", "-ec", commands + gained],
            check=False,
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
        )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    run_dir = here / "runs" / "continued" / "main"
    losses = [line["loss/valid"] for line in lines_of(run_dir) if "loss/valid" in line]
    assert len(losses) > 2  # the first one before the first step
    assert losses[-1] < losses[0]
    before, after = (load_file(path / "model.safetensors") for path in (source, here / "exported"))
    prefix = "" if has_head else "bert."
    assert not {f"{prefix}{name}" for name in before} - after.keys()
    found, expected = (
        transformers.AutoModelForMaskedLM.from_pretrained(path)
        for path in (here / "exported", source)
    )
    assert type(found) is type(expected)
    assert "gain" in (run_dir.parent / "record.md").read_text().lower()
