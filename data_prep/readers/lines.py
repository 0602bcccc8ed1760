"""Reads the clean lines of all sources."""

from collections import Counter
from collections.abc import Iterator

from tqdm import tqdm

from data_prep.readers.cleaning import clean_lines
from data_prep.readers.counts import add_reader_counts, check_is_utf8
from data_prep.readers.sources import Source
from data_prep.readers.text import read_chunks


def line_batches(
    sources: list[Source], title: str, counts: Counter[str], *, keep_white_space: bool = False
) -> Iterator[list[str]]:
    """The clean lines of the text, one chunk at a time, with a progress bar.

    Adds what became of the lines to `counts`.
    """
    total = sum(source.size for source in sources)
    before = 0
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=None) as bar:
        for source in sources:
            of_source: Counter[str] = Counter()
            by_reader: Counter[str] = Counter()
            for chunk, position in read_chunks(source, by_reader):
                yield clean_lines(
                    chunk,
                    source.line_kind,
                    of_source,
                    source.column,
                    keep_white_space=keep_white_space,
                )
                bar.update(before + position - bar.n)
            check_is_utf8(source.path, of_source)
            counts.update(of_source)
            add_reader_counts(counts, by_reader)
            before += source.size
