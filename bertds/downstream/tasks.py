"""The tasks: which columns a text is made of, and which metrics the field reports.

GLUE (Wang et al., 2018), SuperGLUE (Wang et al., 2019) and KLUE (Park et al., 2021) have their tasks by
name, with the columns of the data sets on the Hub. Their tasks that need other models than classifiers
of texts, pairs and tokens are not supported: `UNSUPPORTED` says why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bertds.downstream.metrics import METRICS
from bertds.errors import ConfigError

Kind = Literal["classification", "pair", "regression", "tokens"]
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is predicted from what, and how it is scored."""

    name: str
    kind: Kind
    columns: tuple[str, ...]
    """Columns that must exist: the text, the second text; or those that `compose` reads."""
    label: str = "label"
    """Column of the label, of a regression's value, or of the tags; `a.b` is the field b of a."""
    metrics: tuple[str, ...] = ("accuracy",)
    """Their mean is the score of a model, as GLUE's leaderboard has it."""
    valid: Mapping[str, str] = field(default_factory=lambda: {"": "validation"})
    """The validation splits, by the suffix of their metrics' names."""
    compose: Callable[[Row], tuple[str, ...]] | None = None
    """Makes the one or two texts of a row; else the columns are the texts."""
    group: Callable[[Row], object] | None = None
    """Which examples belong together, for `exact_match`."""

    def texts(self, row: Row) -> tuple[str, ...]:
        """The text, or the two texts, of a row of text columns."""
        return self.compose(row) if self.compose else tuple(row[name] for name in self.columns)


def task_of_files(kind: Kind, text: str, pair: str, label: str, metrics: str) -> Task:
    """The task of the user's own files.

    Args:
        kind: What is predicted.
        text: Column of the text, or of the tokens; empty for the default.
        pair: Column of the second text; empty for the default of pairs, or none.
        label: Column of the label, the value or the tags; empty for the default.
        metrics: Names of metrics, separated by commas; empty for those of the kind.

    Raises:
        ConfigError: There is no metric of this name.
    """
    columns = [text or ("tokens" if kind == "tokens" else "text")]
    if pair or kind == "pair":
        columns.append(pair or "text_pair")
    if kind in ("classification", "tokens") and pair:
        raise ConfigError(
            f"--pair_column is {pair}, and --kind {kind} has one text: use --kind pair"
        )
    names = tuple(name.strip() for name in metrics.split(",") if name.strip())
    for name in names:
        if name not in METRICS or name == "exact_match":
            known = ", ".join(sorted(METRICS.keys() - {"exact_match"}))
            raise ConfigError(f"--metrics has {name!r}, expected some of {known}")
    return Task(
        name="",
        kind=kind,
        columns=tuple(columns),
        label=label or ("tags" if kind == "tokens" else "label"),
        metrics=names or _METRICS_OF_KIND[kind],
    )


def task_by_name(name: str) -> Task:
    """A task of GLUE, SuperGLUE or KLUE.

    Raises:
        ConfigError: There is no such task, or it needs another kind of model.
    """
    if name in UNSUPPORTED:
        raise ConfigError(f"--task {name} is not supported: {UNSUPPORTED[name]}")
    if name not in TASKS:
        raise ConfigError(
            f"there is no --task {name}, expected one of {', '.join(TASKS)}; or give files with "
            "--train, --valid and --kind"
        )
    return TASKS[name]


def _word_in_context(row: Row) -> tuple[str, ...]:
    """WiC: the word is named before the first text."""
    return f"{row['word']}: {row['sentence1']}", row["sentence2"]


def _marked_spans(row: Row) -> tuple[str, ...]:
    """WSC: the noun and the pronoun are marked, as in T5 (Raffel et al., 2020)."""
    words = row["text"].split(" ")
    for number, mark in ((1, "*"), (2, "#")):
        start = row[f"span{number}_index"]
        stop = start + len(row[f"span{number}_text"].split(" "))
        words[start] = f"{mark} {words[start]}"
        words[stop - 1] = f"{words[stop - 1]} {mark}"
    return (" ".join(words),)


def _question_and_answer(row: Row) -> tuple[str, ...]:
    return row["paragraph"], f"{row['question']} {row['answer']}"


def _question_of(row: Row) -> object:
    return row["idx"]["paragraph"], row["idx"]["question"]


def _marked_entities(row: Row) -> tuple[str, ...]:
    """KLUE-RE: typed entity markers of punctuation (Zhou & Chen, 2022), which need no new tokens."""
    text = row["sentence"]
    marked = [(row["subject_entity"], "@", "*"), (row["object_entity"], "#", "^")]
    for entity, mark, around in sorted(marked, key=lambda each: -each[0]["start_idx"]):
        start, stop = entity["start_idx"], entity["end_idx"] + 1
        inner = f"{mark} {around} {entity['type']} {around} {text[start:stop]} {mark}"
        text = f"{text[:start]}{inner}{text[stop:]}"
    return (text,)


_METRICS_OF_KIND: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy",),
    "pair": ("accuracy",),
    "regression": ("pearson", "spearman"),
    "tokens": (),  # entity_f1 for BIO tags, else accuracy: known when the tags are read
}
_TWO = ("sentence1", "sentence2")
_NLI = ("premise", "hypothesis")
_TASKS = (
    Task(name="glue/cola", kind="classification", columns=("sentence",), metrics=("mcc",)),
    Task(name="glue/sst2", kind="classification", columns=("sentence",)),
    Task(name="glue/mrpc", kind="pair", columns=_TWO, metrics=("accuracy", "f1")),
    Task(
        name="glue/qqp",
        kind="pair",
        columns=("question1", "question2"),
        metrics=("accuracy", "f1"),
    ),
    Task(name="glue/stsb", kind="regression", columns=_TWO, metrics=("pearson", "spearman")),
    Task(
        name="glue/mnli",
        kind="pair",
        columns=_NLI,
        valid={"_matched": "validation_matched", "_mismatched": "validation_mismatched"},
    ),
    Task(name="glue/qnli", kind="pair", columns=("question", "sentence")),
    Task(name="glue/rte", kind="pair", columns=_TWO),
    Task(name="glue/wnli", kind="pair", columns=_TWO),
    Task(name="super_glue/boolq", kind="pair", columns=("question", "passage")),
    Task(name="super_glue/cb", kind="pair", columns=_NLI, metrics=("accuracy", "f1_macro")),
    Task(name="super_glue/rte", kind="pair", columns=_NLI),
    Task(
        name="super_glue/wic",
        kind="pair",
        columns=("word", *_TWO),
        compose=_word_in_context,
    ),
    Task(
        name="super_glue/wsc",
        kind="classification",
        columns=("text", "span1_text", "span1_index", "span2_text", "span2_index"),
        compose=_marked_spans,
    ),
    Task(
        name="super_glue/multirc",
        kind="pair",
        columns=("paragraph", "question", "answer", "idx"),
        metrics=("f1", "exact_match"),
        compose=_question_and_answer,
        group=_question_of,
    ),
    Task(name="klue/ynat", kind="classification", columns=("title",), metrics=("f1_macro",)),
    Task(
        name="klue/sts",
        kind="regression",
        columns=_TWO,
        label="labels.label",
        metrics=("pearson", "f1_of_similar"),
    ),
    Task(name="klue/nli", kind="pair", columns=_NLI),
    Task(
        name="klue/ner",
        kind="tokens",
        columns=("tokens",),
        label="ner_tags",
        metrics=("entity_f1_macro", "tag_f1_macro"),
    ),
    Task(
        name="klue/re",
        kind="classification",
        columns=("sentence", "subject_entity", "object_entity"),
        metrics=("f1_micro_of_relations",),
        compose=_marked_entities,
    ),
)
TASKS = {task.name: task for task in _TASKS}
"""The tasks that have a name."""
UNSUPPORTED = {
    "glue/ax": "it has no training data and no labels",
    "super_glue/axb": "it has no training data",
    "super_glue/axg": "it has no training data",
    "super_glue/copa": "it is a choice between texts",
    "super_glue/record": "it is a choice between entities",
    "klue/dp": "it needs a dependency parser",
    "klue/mrc": "it needs a model that marks answers in a text",
    "klue/wos": "it needs a model that tracks a dialogue's state",
}
"""Tasks of the three collections that this program has no model for, and why."""
