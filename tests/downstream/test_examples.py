"""Labelled data is the same from every format, and all mistakes of a file are reported at once."""

import csv
import json

import pytest

from bertds.downstream.examples import data_of_directory, data_of_files
from bertds.downstream.tasks import TASKS, UNSUPPORTED, task_by_name, task_of_files
from bertds.errors import ConfigError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
ROWS = [
    {"text": 'Er sagte "ja".', "label": "yes"},
    {"text": "아니, 그는 말했다", "label": "no"},
    {"text": '"nein', "label": "no"},
]
OF_TEXTS = task_of_files("classification", "", "", "", "")


def write_all(directory, rows):
    """The rows in each format."""
    directory.mkdir()
    lines = ["\t".join(row.values()) for row in rows]
    (directory / "a.tsv").write_text("\n".join(["text\tlabel", *lines, ""]))
    with (directory / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (directory / "a.jsonl").write_text("\ufeff" + "\r\n".join(lines))
    parquet.write_table(pa.Table.from_pylist(rows), directory / "a.parquet")
    return sorted(directory.iterdir())


def of_files(train, valid=None, task=OF_TEXTS):
    return data_of_files(task, train, valid or train, None)


def test_every_format_gives_the_same_examples(tmp_path):
    found = [of_files(path) for path in write_all(tmp_path / "data", ROWS)]
    assert len(found) == 4
    assert found == [found[0]] * 4
    assert [example.texts for example in found[0].train] == [(row["text"],) for row in ROWS]
    assert [found[0].names[example.label] for example in found[0].train] == ["yes", "no", "no"]
    assert len({data.fingerprint() for data in found}) == 1
    assert (
        data_of_files(OF_TEXTS, tmp_path / "data" / "a.tsv", tmp_path / "data" / "a.csv", 2).valid[
            ""
        ]
        == found[0].train[:2]
    )


def test_a_task_has_the_splits_that_datasets_saved(tmp_path):
    """As save_to_disk writes them, or as files of the Hub; with two validation sets for MNLI."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]),
        }
    )
    splits = ("train", "validation_matched", "validation_mismatched")
    rows = [{"premise": f"p{n}", "hypothesis": f"h{n}", "label": n} for n in (2, 1)]
    content = {split: datasets.Dataset.from_list(rows, features=features) for split in splits}
    datasets.DatasetDict(content).save_to_disk(tmp_path / "saved")
    (tmp_path / "hub").mkdir()
    for split, dataset in content.items():
        parquet.write_table(
            dataset.data.table, tmp_path / "hub" / f"{split}-00000-of-00001.parquet"
        )
    task = task_by_name("glue/mnli")
    saved = data_of_directory(task, tmp_path / "saved", None)
    assert saved.names == ("entailment", "neutral", "contradiction")
    assert [(example.texts, example.label) for example in saved.train] == [
        (("p2", "h2"), 2),
        (("p1", "h1"), 1),
    ]
    assert [*saved.valid] == ["_matched", "_mismatched"]
    assert data_of_directory(task, tmp_path / "hub", None) == saved


def test_the_nested_columns_of_klue(tmp_path):
    """Tags have names that the file knows, a similarity is inside a column."""
    datasets = pytest.importorskip("datasets")
    ner = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["B-PS", "I-PS", "O"])),
        }
    )
    tables = {
        "ner": datasets.Dataset.from_list(
            [{"tokens": ["한", "석", " ", "은"], "ner_tags": [0, 1, 2, 2]}], features=ner
        ),
        "sts": datasets.Dataset.from_list(
            [
                {
                    "sentence1": "a",
                    "sentence2": "b",
                    "labels": {"label": 3.7, "real-label": 3.71, "binary-label": 1},
                }
            ]
        ),
    }
    for name, dataset in tables.items():
        splits = {"train": dataset, "validation": dataset}
        datasets.DatasetDict(splits).save_to_disk(tmp_path / name)
    tagged = data_of_directory(task_by_name("klue/ner"), tmp_path / "ner", None)
    assert (tagged.names, tagged.train[0].label) == (("B-PS", "I-PS", "O"), [0, 1, 2, 2])
    pair = data_of_directory(task_by_name("klue/sts"), tmp_path / "sts", None)
    assert (pair.train[0].texts, pair.train[0].label) == (("a", "b"), 3.7)


@pytest.mark.parametrize(
    ("name", "row", "texts"),
    [
        (
            "super_glue/wsc",
            {
                "text": "Mark told Pete lies about himself .",
                "span1_text": "Mark",
                "span1_index": 0,
                "span2_text": "himself .",
                "span2_index": 5,
            },
            ("* Mark * told Pete lies about # himself . #",),
        ),
        (
            "klue/re",
            {
                "sentence": "조지 해리슨이 쓴 비틀즈 앨범",
                "subject_entity": {"word": "비틀즈", "start_idx": 10, "end_idx": 12, "type": "ORG"},
                "object_entity": {
                    "word": "조지 해리슨",
                    "start_idx": 0,
                    "end_idx": 5,
                    "type": "PER",
                },
            },
            ("# ^ PER ^ 조지 해리슨 #이 쓴 @ * ORG * 비틀즈 @ 앨범",),
        ),
        (
            "super_glue/wic",
            {"word": "bank", "sentence1": "The bank of a river.", "sentence2": "A bank."},
            ("bank: The bank of a river.", "A bank."),
        ),
    ],
)
def test_texts_of_composed_tasks(name, row, texts):
    assert TASKS[name].texts(row) == texts


@pytest.mark.parametrize("name", [*UNSUPPORTED, "glue/sst-2"])
def test_a_task_that_cannot_be_run_says_why(name):
    with pytest.raises(ConfigError, match=f"--task {name}.*{UNSUPPORTED.get(name, 'one of')}"):
        task_by_name(name)


def test_letters_and_words_have_their_places(tmp_path):
    path = tmp_path / "tokens.jsonl"
    rows = [
        {"tokens": ["서", "울", " ", "에"], "tags": ["B-LC", "I-LC", "O", "O"]},
        {"tokens": "New York is big", "tags": "B-LC I-LC O O"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    data = of_files(path, task=task_of_files("tokens", "", "", "", ""))
    letters, words = data.train
    assert (letters.texts, words.texts) == (("서울 에",), ("New York is big",))
    assert [letters.texts[0][start:stop] for start, stop in letters.units] == [
        "서",
        "울",
        " ",
        "에",
    ]
    assert [words.texts[0][start:stop] for start, stop in words.units] == [
        "New",
        "York",
        "is",
        "big",
    ]
    assert data.task.metrics == ("entity_f1",)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "", ["expected a file named .tsv, .csv, .jsonl, .parquet"]),
        ("a.tsv", "", ["is empty"]),
        ("a.jsonl", "\n", ["has no rows"]),
        ("a.tsv", "text\tlabel\n", ["has no rows"]),
        ("a.tsv", "sentence\tlabel\na\tb\n", ["no column text", "sentence, label"]),
        ("a.tsv", "text\tlabel\nx\nok\t1\ny\t1\t2\n", ["2 problems", "line 2: 1 cells", "line 4: 3"]),
        ("a.csv", 'text,label\n"x,1\n', ["line 2"]),
        ("a.jsonl", '{"text": "a"\n[1]\n{"text": "a", "label": 1}\n', ["line 1: not JSON", "line 2"]),
        ("a.jsonl", '{"text": 3, "label": 1}\n{"text": "a", "label": null}\n{"text": "a", "label": 2}',
         ["line 1: text is 3", "line 2: label is None"]),
        ("a.tsv", b"text\tlabel\n\xff\t1\na\t0\n\xfe\t1\n", ["line 2 is not UTF-8", "line 4"]),
        ("a.tsv", "text\tlabel\na\t1\nb\t1\n", ["has the labels 1, expected two or more"]),
        ("a.parquet", b"PAR1", ["a.parquet cannot be read"]),
    ],
)  # fmt: skip
def test_mistakes_of_a_file(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        of_files(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_labels_that_only_validation_has(tmp_path):
    train, valid = tmp_path / "train.tsv", tmp_path / "valid.tsv"
    train.write_text("text\tlabel\na\t0\nb\t1\n")
    valid.write_text("text\tlabel\n" + "a\t2\n" * 30 + "b\t1\n")
    with pytest.raises(ConfigError) as caught:
        of_files(train, valid)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{valid} (the first of 30): 20 problems")
    assert lines[1].strip() == "line 2: label is '2', and the training data has 0, 1"
    assert len(lines) == 21


@pytest.mark.parametrize(
    ("kind", "metrics", "words"),
    [
        ("classification", "bleu", "--metrics has 'bleu'"),
        ("classification", "pearson", "do not fit --kind classification"),
        ("regression", "accuracy", "do not fit --kind regression"),
        ("classification", "entity_f1", "needs tags such as B-PER"),
        ("classification", "f1", "needs two labels"),
    ],
)
def test_metrics_that_do_not_fit(tmp_path, kind, metrics, words):
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\na\t0\nb\t1\nc\t2\n")
    with pytest.raises(ConfigError, match=words):
        of_files(path, task=task_of_files(kind, "", "", "", metrics))
