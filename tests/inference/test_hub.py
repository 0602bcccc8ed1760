"""`export --push_to_hub` against a local Hub, from which transformers loads the model back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

from tests.helpers.hub_server import Hub, serving_hub
from tests.helpers.launching import ROOT, environment, free_port
from tests.helpers.trained_runs import bertds_command

RUN = Path(__file__).resolve().parents[1] / "golden" / "earlier_version" / "run"
REPO = "tester/small"
LOAD = """
import sys, torch
from pathlib import Path
from huggingface_hub import snapshot_download
from transformers import AutoModelForMaskedLM, AutoTokenizer
repo, local = sys.argv[1:]
text = torch.tensor([AutoTokenizer.from_pretrained(local)("ba co fin")["input_ids"]])
assert AutoTokenizer.from_pretrained(repo)("ba co fin")["input_ids"] == text[0].tolist()
ours, theirs = (AutoModelForMaskedLM.from_pretrained(each)(text).logits for each in (local, repo))
assert torch.equal(ours, theirs)
snapshot = Path(snapshot_download(repo))
for file in Path(local).iterdir():
    assert (snapshot / file.name).read_bytes() == file.read_bytes(), file
"""


@pytest.fixture
def hub():
    with serving_hub() as server:
        yield server


@pytest.fixture
def hub_here(hub, tmp_path, monkeypatch):
    """The Hub of this process; huggingface_hub has read its variables long ago."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    for name, value in hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    disable_progress_bars()
    yield hub
    enable_progress_bars()


def python(hub: Hub, home: Path, *arguments: str) -> str:
    """The output of a new process that uses the Hub."""
    variables = environment() | hub.environment(home) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        env=variables,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_pushed_model_is_loaded_back_by_its_name(hub, tmp_path):
    """In processes of their own, with nothing but the environment."""
    out = tmp_path / "small"
    command = ["-m", "bertds", "export", str(RUN), "--out", str(out), f"--push_to_hub={REPO}"]
    assert python(hub, tmp_path / "home", *command).split() == [str(out), f"{hub.url}/{REPO}"]
    commit = hub.repos[REPO].at("main")
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {name: commit.files[name] for name in files} == files
    assert not hub.repos[REPO].private
    assert any(request.startswith("PUT /lfs/") for request in hub.requests)
    python(hub, tmp_path / "home", "-c", LOAD, REPO, str(out))


def test_a_repository_is_downloaded_with_the_command_of_the_hub(hub, tmp_path):
    """Also a private one, that only the owner of the token may see."""
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "model.safetensors").write_bytes(os.urandom(3000))
    (source / "folder/text.json").write_text("{}")
    hub.add("someone/model", source, private=True)
    command = [str(Path(sys.executable).parent / "hf"), "download", "someone/model"]
    for token, is_allowed in (("wrong", False), ("", False), (None, True)):
        variables = environment() | hub.environment(tmp_path / "home")
        variables |= {} if token is None else {"HF_TOKEN": token}
        target = tmp_path / f"to_{token}"
        done = subprocess.run(
            [*command, "--local-dir", str(target)],
            check=False,
            env=variables,
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 0) == is_allowed, done.stderr
        if is_allowed:
            for name in ("model.safetensors", "folder/text.json"):
                assert (target / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.usefixtures("hub_here")
def test_a_name_alone_is_a_repository_of_the_user_and_it_may_be_private(hub, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ("--out", out, "--push_to_hub", "small", "--private")
    code, stdout, stderr = bertds_command(capsys, "export", RUN, *flags)
    assert (code, stdout.split()) == (0, [str(out), f"{hub.url}/{REPO}"]), stderr
    assert hub.repos[REPO].private
    # The same command with another export adds a commit.
    assert bertds_command(capsys, "export", RUN, "--out", tmp_path / "b", *flags[2:])[0] == 0
    assert set(hub.repos) == {REPO}


@pytest.mark.usefixtures("hub_here")
def test_a_private_export_is_not_put_into_a_public_repository(hub, tmp_path, capsys):
    hub.add(REPO, tmp_path)
    flags = ("--out", tmp_path / "out", "--push_to_hub", REPO, "--private")
    code, _, stderr = bertds_command(capsys, "export", RUN, *flags)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "tester/small exists and is public" in stderr
    assert len(hub.repos[REPO].commits) == 1


@pytest.mark.usefixtures("hub_here")
@pytest.mark.parametrize(
    ("case", "repo", "part"),
    [
        ("no token", REPO, "needs a token: log in with `hf auth login`, or set HF_TOKEN"),
        ("wrong token", REPO, "401"),
        ("no network", REPO, "Connection refused"),
        ("commit fails", REPO, "503"),
        ("other owner", "nobody/small", "403"),
    ],
)
def test_a_failed_upload_is_one_line_and_keeps_the_export(
    hub, tmp_path, monkeypatch, capsys, case, repo, part
):
    if case in ("no token", "wrong token"):
        monkeypatch.setenv("HF_TOKEN", "" if case == "no token" else "hf_wrong")
    if case == "no network":
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    if case == "commit fails":
        hub.failing = "POST /api/models/.*/commit/"
    out = tmp_path / "out"
    code, stdout, stderr = bertds_command(
        capsys, "export", RUN, "--out", out, "--push_to_hub", repo
    )
    assert (code, stdout.strip(), stderr.count("\n")) == (2, str(out), 1), stderr
    assert part in stderr
    assert f"to upload it, run: hf upload {repo} {out}" in stderr
    assert (out / "model.safetensors").is_file()
    assert json.loads((out / "config.json").read_text())["vocab_size"] > 5


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--push_to_hub", "a/b/c"), "--push_to_hub is 'a/b/c', expected USER/NAME"),
        (("--private",), "--private needs --push_to_hub"),
        (("--base_model", "a/b"), "began with random weights"),
    ],
)
def test_wrong_flags_write_nothing(tmp_path, capsys, flags, part):
    code, _, stderr = bertds_command(capsys, "export", RUN, "--out", tmp_path / "out", *flags)
    assert (code, stderr.count("\n")) == (2, 1)
    assert part in stderr
    assert not (tmp_path / "out").exists()
