"""A real run to fine-tune, which is tiny, and tasks that it can learn."""

import json
import random
import shutil
from pathlib import Path

import pytest

from tests.helpers.trained_runs import bertds_command

RUN = Path(__file__).parents[1] / "golden" / "earlier_version" / "run"
WORDS = (["가", "나", "달"], ["모", "소", "하"])


@pytest.fixture
def run_dir(tmp_path):
    return Path(shutil.copytree(RUN, tmp_path / "run"))


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The run as a Hugging Face directory; no test may change it."""
    from bertds.inference.export import export
    from bertds.runs.trained_run import TrainedRun

    out = tmp_path_factory.mktemp("exported") / "model"
    export(TrainedRun.open(RUN, "latest"), out)
    return out


def rows_of(kind, count, seed):
    """Texts of the words of one class, whose label follows from the words."""
    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        label = generator.randrange(2)
        words = generator.choices(WORDS[label], k=3)
        other = generator.randrange(2)
        row = {"text": " ".join(words), "label": "ab"[label]}
        if kind == "pair":
            row |= {"text_pair": " ".join(generator.choices(WORDS[other], k=2)), "label": label}
        elif kind == "regression":
            row["label"] = label * 2 - 1
        elif kind == "tokens":
            both = [generator.randrange(2) for _ in words]
            tokens = [generator.choice(WORDS[each]) for each in both]
            row = {"tokens": tokens, "tags": [("O", "B-X")[each] for each in both]}
        rows.append(row)
    return rows


@pytest.fixture
def files(tmp_path):
    """Writes the training and the validation file of a kind, and returns their flags."""

    def write(kind, train=60, valid=20):
        flags = ["--kind", kind]
        for seed, (split, count) in enumerate((("train", train), ("valid", valid))):
            path = tmp_path / f"{split}.jsonl"
            path.write_text("\n".join(map(json.dumps, rows_of(kind, count, seed))))
            flags += [f"--{split}", str(path)]
        return flags

    return write


@pytest.fixture
def finetune(capsys):
    """Runs the command; fails with its message."""

    def run(*flags):
        code, out, errors = bertds_command(capsys, "finetune", *flags)
        assert code == 0, errors
        return out, errors

    return run
