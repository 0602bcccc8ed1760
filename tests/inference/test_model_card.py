"""The model card of an export: metadata, figures, and commands that make the model again."""

import json
import math
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from bertds.inference.model_card import model_card
from bertds.runs.trained_run import TrainedRun
from bertds.training.branch import Branch
from tests.helpers.trained_runs import bertds_command

RUN = Path(__file__).resolve().parents[1] / "golden" / "earlier_version" / "run"


@pytest.fixture
def run_dir(tmp_path):
    return shutil.copytree(RUN, tmp_path / "run")


def continued(run_dir, source):
    """The run as if it had started from a model, and had been validated before its first step."""
    content = json.loads((run_dir / "case.json").read_text())
    content["config"]["bertds"]["run"]["init_from"] = str(source)
    content["resolved"]["guess_without_context"]["neighbour"] = {"loss": 3.25, "accuracy": 0.25}
    (run_dir / "case.json").write_text(json.dumps(content))
    before = json.dumps({"step": 0, "loss/valid": 1.5, "acc/valid": 0.5})
    lines = (run_dir / "metrics.jsonl").read_text()
    (run_dir / "metrics.jsonl").write_text(f"{before}\n{lines}")


def card_of(run_dir, **names):
    card = model_card(TrainedRun.open(run_dir, "latest"), Path("some/out"), **names)
    front = re.match(r"---\n(.*?)\n---\n\n# ", card, re.DOTALL)
    return card, yaml.safe_load(front[1])


def cells(card, name):
    (row,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", card, re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


def test_the_figures_are_those_that_training_logged(run_dir):
    continued(run_dir, "model")
    card, _ = card_of(run_dir)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    (last,) = [line for line in lines if line["step"] == 6 and "loss/valid" in line]
    loss, accuracy = last["loss/valid"], last["acc/valid"]
    assert cells(card, "step 6") == [f"{loss:.4f}", f"{math.exp(loss):.2f}", f"{accuracy:.4f}"]
    assert cells(card, "step 0") == ["1.5000", "4.48", "0.5000"]
    assert cells(card, "neighbour baseline") == ["3.2500", "25.79", "0.2500"]
    unigram = json.loads((run_dir / "case.json").read_text())["resolved"]["guess_without_context"]
    assert cells(card, "unigram baseline")[0] == f"{unigram['loss']:.4f}"
    assert cells(card, "tokens, padding excluded") == [f"{last['tokens']:,}"]


def test_metadata_is_given_only_if_it_is_known(run_dir, tmp_path):
    card, metadata = card_of(run_dir)
    assert metadata == {"library_name": "transformers", "pipeline_tag": "fill-mask"}
    assert "from random weights" in card
    source = tmp_path / "bert"
    source.mkdir()
    continued(run_dir, source)
    card, metadata = card_of(run_dir)
    assert "base_model" not in metadata
    assert "from the weights of bert" in card
    readme = "---\nlicense: other\nlicense_name: its-own\nlanguage: de\ntags: [x]\n---\n# BERT\n"
    (source / "README.md").write_text(readme)
    card, metadata = card_of(run_dir, base_model="org/bert", repo="me/more")
    assert metadata == {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "base_model": "org/bert",
        "license": "other",
        "license_name": "its-own",
    }
    assert "from the weights of org/bert" in card
    assert 'pipeline("fill-mask", "me/more")' in card
    (source / "README.md").write_text("---\nlicense: [\n---\n")
    assert "license" not in card_of(run_dir)[1]


def test_the_cache_of_the_hub_tells_the_name_of_a_model(run_dir, tmp_path):
    for folder, name in (("models--org--bert", "org/bert"), ("models--bert", "bert")):
        continued(run_dir, tmp_path / folder / "snapshots/0123abcd")
        assert card_of(run_dir)[1]["base_model"] == name


def test_a_branch_began_with_the_model_of_its_trunk(run_dir, tmp_path, capsys):
    continued(run_dir, tmp_path / "models--org--bert/snapshots/0123abcd")
    branch, path = tmp_path / "case/branch", tmp_path / "case/branch/case.json"
    for _ in range(2):  # and a branch of the branch
        record = Branch(run_dir=run_dir, step=6, differences=[], train_row_length=8).record(branch)
        shutil.copytree(run_dir, branch)
        content = json.loads(path.read_text())
        content["config"]["bertds"]["run"].pop("init_from", None)
        content["resolved"]["branch"] = record
        path.write_text(json.dumps(content))
        card, metadata = card_of(branch)
        assert metadata["base_model"] == "org/bert"
        assert "from the weights of org/bert" in card
        shutil.rmtree(run_dir)
        shutil.move(branch, run_dir)
    out = tmp_path / "out"
    flags = ["export", run_dir, "--out", out, "--base_model", "me/bert"]
    assert bertds_command(capsys, *flags)[0] == 0
    assert "base_model: me/bert" in (out / "README.md").read_text()


def test_the_case_and_the_commands_are_accepted(run_dir, tmp_path, capsys, monkeypatch):
    """The case file as printed is valid, and the arm that it trains is the one that is exported."""
    card, _ = card_of(run_dir, repo="me/more")
    monkeypatch.chdir(tmp_path)
    train, export = (
        shlex.split(line) for line in re.search(r"```sh\n#.*\n(.*)\n(.*)\n```", card).groups()
    )
    case = Path(train[train.index("--ds_config") + 1])
    case.write_text(re.search(r"```json\n(.*?)\n```", card, re.DOTALL)[1])
    code, stdout, stderr = bertds_command(capsys, "check", case)
    assert code == 0, stderr
    assert "no mistakes (arms: main)" in stdout
    place = Path("runs") / case.stem / "main"
    assert export[:5] == ["python", "-m", "bertds", "export", str(place)]
    assert export[-2:] == ["--push_to_hub", "me/more"]
    shutil.copytree(run_dir, place)
    assert bertds_command(capsys, *export[3:-2])[0] == 0
    assert Path("out/model.safetensors").is_file()
