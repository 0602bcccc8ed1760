"""TensorBoard records that a run writes at its start: chart layout, hyperparameters, case file.

Every arm of a case writes the same layout, and TensorBoard merges them. So the charts show all arms
of a directory together: loss, accuracy, learning rate, throughput. The HParams tab shows the
settings, those that differ between arms first.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb

from bertds.config.flatten import flatten

TITLE = "bertds.title"


def run_summaries(content: Mapping[str, Any]) -> Iterator[Summary]:
    """The records that a run starts with.

    Args:
        content: The run's `case.json`.
    """
    yield _layout(list(content["resolved"]["valid"]))
    settings = scalars_of(content["config"])
    title = settings.pop(TITLE, "")
    yield hparams_pb(settings, trial_id=f"{content['case']}/{content['arm']}")
    text = json.dumps(content, indent=2, ensure_ascii=False)
    # Four blanks per line make it a Markdown code block, whatever it contains.
    yield text_pb("case", f"{title}\n\n" + "\n".join(f"    {line}" for line in text.splitlines()))


def _layout(valid_sets: Sequence[str]) -> Summary:
    shown_sets = valid_sets if len(valid_sets) > 1 else []
    # Category title -> chart title -> tag.
    tags = {
        "loss": {
            "training": "loss/train",
            "validation": "loss/valid",
            **{f"validation, {name}": f"loss/valid/{name}" for name in shown_sets},
        },
        "accuracy": {
            "training": "acc/train",
            "validation": "acc/valid",
            **{f"validation, {name}": f"acc/valid/{name}" for name in shown_sets},
        },
        "learning rate": {"learning rate": "lr"},
        "throughput": {
            "tokens/s (without padding)": "tokens_per_s",
            "model FLOPs utilization (MFU)": "mfu",
            "gradient norm": "grad_norm",
        },
    }
    categories = [
        layout_pb2.Category(title=title, chart=[_chart(*chart) for chart in charts.items()])
        for title, charts in tags.items()
    ]
    layout = layout_pb2.Layout(category=categories).SerializeToString()
    value = Summary.Value(
        tag=metadata.CONFIG_SUMMARY_TAG,
        metadata=metadata.create_summary_metadata(),
        tensor=TensorProto(dtype=DT_STRING, string_val=[layout]),
    )
    return Summary(value=[value])


def _chart(title: str, tag: str) -> layout_pb2.Chart:
    # A tag is a regular expression, matched at the start.
    content = layout_pb2.MultilineChartContent(tag=[f"{re.escape(tag)}$"])
    return layout_pb2.Chart(title=title, multiline=content)


def scalars_of(config: Mapping[str, Any]) -> dict[str, bool | float | int | str]:
    """The settings by path, with lists as JSON: types that HParams and MLflow accept."""
    return {
        path: value
        if isinstance(value, bool | int | float | str)
        else json.dumps(value, ensure_ascii=False)
        for path, value in flatten(config).items()
    }
