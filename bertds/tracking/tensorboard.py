"""What TensorBoard shows of a run besides its scalars: a layout, its settings, its case file.

Every arm of a case writes the same layout, which TensorBoard merges, so the arms of a directory lie
over one another: loss, accuracy, learning rate, throughput. Settings stand in the HParams tab, where
those that differ between arms come first. A few records a run, written at its start.
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
    """What a run's TensorBoard begins with.

    Args:
        content: The run's `case.json`.
    """
    yield _layout(list(content["resolved"]["valid"]))
    settings = scalars_of(content["config"])
    title = settings.pop(TITLE, "")
    yield hparams_pb(settings, trial_id=f"{content['case']}/{content['arm']}")
    text = json.dumps(content, indent=2, ensure_ascii=False)
    # Four blanks make it code, whatever is in it.
    yield text_pb("case", f"{title}\n\n" + "\n".join(f"    {line}" for line in text.splitlines()))


def _layout(valid_sets: Sequence[str]) -> Summary:
    several = valid_sets if len(valid_sets) > 1 else []
    figures = {
        "loss": {"training": "loss/train", "validation": "loss/valid"},
        "accuracy": {"training": "acc/train", "validation": "acc/valid"},
    }
    for short, charts in zip(("loss", "acc"), figures.values(), strict=True):
        charts |= {f"validation, {name}": f"{short}/valid/{name}" for name in several}
    figures["learning rate"] = {"learning rate": "lr"}
    figures["throughput"] = {
        "real tokens a second": "tokens_per_s",
        "share of the device's arithmetic (MFU)": "mfu",
        "gradient norm": "grad_norm",
    }
    categories = [
        layout_pb2.Category(title=title, chart=[_chart(*chart) for chart in charts.items()])
        for title, charts in figures.items()
    ]
    layout = layout_pb2.Layout(category=categories).SerializeToString()
    value = Summary.Value(
        tag=metadata.CONFIG_SUMMARY_TAG,
        metadata=metadata.create_summary_metadata(),
        tensor=TensorProto(dtype=DT_STRING, string_val=[layout]),
    )
    return Summary(value=[value])


def _chart(title: str, tag: str) -> layout_pb2.Chart:
    # Tags are regular expressions that match from the start.
    content = layout_pb2.MultilineChartContent(tag=[f"{re.escape(tag)}$"])
    return layout_pb2.Chart(title=title, multiline=content)


def scalars_of(config: Mapping[str, Any]) -> dict[str, bool | float | int | str]:
    """The settings by path, lists as JSON: what HParams and MLflow take."""
    return {
        path: value
        if isinstance(value, bool | int | float | str)
        else json.dumps(value, ensure_ascii=False)
        for path, value in flatten(config).items()
    }
