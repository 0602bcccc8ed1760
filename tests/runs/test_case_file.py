"""A model that the case file leaves open follows `run.init_from`."""

import json
import os
import shutil

import pytest

from bertds import Case, cli
from bertds.__main__ import COMMANDS
from bertds.config.sweep import swept_case
from bertds.errors import ConfigError
from bertds.huggingface.model_block import model_block
from bertds.runs.case_file import read_case
from bertds.training.case_check import check_cases, read_cases
from tests.helpers.in_process_training import BASE
from tests.huggingface.test_pretrained import make_model, write

pytest.importorskip("transformers")


@pytest.fixture
def source(tokenizer, tmp_path):
    """A Hugging Face directory of a BERT."""
    fields = {"hidden_dropout_prob": 0.3, "num_hidden_layers": 3, "max_position_embeddings": 64}
    model = make_model(tokenizer, preset="bert", **fields)
    return write(model, tokenizer, tmp_path / "source")


@pytest.fixture
def case_file(source, tmp_path):
    """Writes a case that continues the directory, with some keys of the model."""

    def make(model=None, **run):
        block = {key: value for key, value in BASE["bertds"].items() if key != "model"}
        block["run"] = {**block["run"], "init_from": str(source), **run}
        if model is not None:
            block["model"] = model
        path = tmp_path / "case.json"
        path.write_text(json.dumps({**BASE, "bertds": block}))
        return path

    return make


def test_a_case_without_a_model_has_that_of_the_directory(case_file, source):
    case = read_case(case_file(), "main")
    assert case.resolved["bertds"]["model"] == model_block(source)
    model = case.bertds.model
    assert (model.preset, model.num_hidden_layers, model.hidden_dropout_prob) == ("bert", 3, 0.3)


def test_given_keys_override_the_derived_ones(case_file, source):
    path = case_file({"hidden_dropout_prob": 0.2})
    case = read_case(path, "main", "model.attention_probs_dropout_prob=0.1")
    given = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1}
    assert case.resolved["bertds"]["model"] == model_block(source) | given


def test_a_complete_model_is_taken_as_it_is(case_file):
    """As before there were derived models: keys that it omits have their own defaults."""
    complete = BASE["bertds"]["model"]
    case = read_case(case_file(complete), "main")
    assert case.resolved["bertds"]["model"] == complete
    assert case.bertds.model.hidden_dropout_prob == 0.1


def test_init_from_may_be_a_setting(case_file, source, tmp_path, monkeypatch):
    path = case_file(init_from=None)
    with pytest.raises(ConfigError, match=r"the key bertds.model is missing"):
        Case.read(path)
    monkeypatch.chdir(tmp_path)
    for settings in (f"run.init_from={source}", {"run": {"init_from": "source"}}):
        assert Case.read(path, settings=settings).bertds.model.num_hidden_layers == 3


def test_a_changed_directory_is_read_again(case_file, source):
    path = case_file()
    assert read_case(path, "main").bertds.model.layer_norm_eps == 1e-12
    content = json.loads((source / "config.json").read_text()) | {"layer_norm_eps": 1e-5}
    (source / "config.json").write_text(json.dumps(content))
    os.utime(source / "config.json", ns=(1, 1))
    assert read_case(path, "main").bertds.model.layer_norm_eps == 1e-5


def test_every_arm_of_a_sweep_follows_its_own_directory(case_file, source, tokenizer, tmp_path):
    longer = {"max_position_embeddings": 64}
    other = write(
        make_model(tokenizer, preset="modernbert", **longer), tokenizer, tmp_path / "other"
    )
    path = case_file()
    sweep = f"run.init_from={source}|{other},model.hidden_dropout_prob=0|0.1"
    path.write_text(json.dumps(swept_case(path, sweep)))
    arms = json.loads(path.read_text())["bertds"]["arms"]
    cases = read_cases([(path, arm) for arm in arms])
    models = [(case.bertds.model.preset, case.bertds.model.hidden_dropout_prob) for case in cases]
    assert models == [("bert", 0), ("bert", 0.1), ("modernbert", 0), ("modernbert", 0.1)]
    assert check_cases([(path, arm) for arm in arms]) == []


def test_the_mistakes_of_case_and_directory_are_told_together(case_file, source):
    content = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(content | {"model_type": "t5"}))
    path = case_file({"hidden_sise": 3}, max_steps=-1)
    with pytest.raises(ConfigError) as rejected:
        read_cases([(path, "main")])
    message = str(rejected.value)
    assert f"run.init_from {source}: config.json has model_type 't5'" in message
    assert "unknown key 'bertds.model.hidden_sise'" in message
    assert "bertds.run.max_steps is -1" in message
    assert "missing" not in message


def test_a_run_that_exists_keeps_its_model_without_the_directory(case_file, source, tmp_path):
    path = case_file({"hidden_dropout_prob": 0.2})
    before = read_case(path, "main", out=tmp_path / "out").resolved
    (source / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"source: config.json is missing"):
        read_case(path, "main", out=tmp_path / "out")
    shutil.rmtree(source)
    with pytest.raises(ConfigError, match=r"run.init_from is '.*source', expected a directory"):
        read_case(path, "main", out=tmp_path / "out")
    run_dir = tmp_path / "out" / "case" / "main"
    run_dir.mkdir(parents=True)
    (run_dir / "case.json").write_text(json.dumps({"config": before}))
    assert read_case(path, "main", out=tmp_path / "out").resolved == before
    source.mkdir()  # or without its files
    assert read_case(path, "main", out=tmp_path / "out").resolved == before


def test_an_open_model_of_a_branch_is_that_of_its_trunk(case_file, source, tmp_path):
    """With or without the model that the trunk continued, and later without the trunk."""
    path, trunk = case_file(), tmp_path / "out" / "case" / "trunk"
    before = read_case(path, "main").resolved
    path = case_file({"hidden_dropout_prob": 0.2}, init_from=None, branch_from=f"{trunk}@8")
    with pytest.raises(
        ConfigError, match=r"trunk is not a run directory, so that its model is not"
    ):
        read_case(path, "main")
    trunk.mkdir(parents=True)
    (trunk / "case.json").write_text(json.dumps({"config": before}))
    link = tmp_path / "out" / "other" / "linked"
    link.mkdir(parents=True)
    (link / "case.json").write_text(json.dumps({"same_as": "case/trunk"}))
    shutil.rmtree(source)
    branch = read_case(path, "main")
    model = before["bertds"]["model"] | {"hidden_dropout_prob": 0.2}
    assert branch.resolved["bertds"]["model"] == model
    linked = read_case(path, "main", f"run.branch_from={link}@8")
    assert linked.resolved["bertds"]["model"] == model
    shutil.move(trunk, trunk.with_name("main"))
    (trunk.with_name("main") / "case.json").write_text(json.dumps({"config": branch.resolved}))
    assert read_case(path, "main", out=tmp_path / "out").resolved == branch.resolved
    with pytest.raises(ConfigError, match=r'"somewhere" is not RUN@STEP'):
        read_case(path, "main", "run.branch_from=somewhere")


def test_check_and_plan_accept_it(case_file, data_root, capsys):
    path = str(case_file())
    assert cli.run("bertds", COMMANDS, ["check", path]) == 0
    flags = ["--gpus=1", "--vocab_size=400", f"--data={data_root}"]
    assert cli.run("bertds", COMMANDS, ["plan", path, *flags]) == 0, capsys.readouterr().err
