"""Reads the clean lines of a source, and makes JSON lines."""

import json
from collections import Counter

from data_prep.readers.cleaning import clean_lines
from data_prep.readers.sources import open_sources
from data_prep.readers.text import read_chunks


def read_lines(spec, directory, counts=None):
    """The clean lines of all sources that `spec` names."""
    counts = Counter() if counts is None else counts
    with open_sources(str(spec), directory) as sources:
        return [
            line
            for source in sources
            for chunk, _ in read_chunks(source)
            for line in clean_lines(chunk, source.line_kind, counts)
        ]


def json_lines(text):
    """The lines of a text as JSON lines."""
    return "\n".join(json.dumps({"id": 1, "text": line}) for line in text.split("\n"))
