"""Extends a tokenizer by the tokens of a domain.

    text --normalized and split as the tokenizer does--> words --new_tokens--> tokenizer.json

Ids that the tokenizer has stay the same. The distinct words of the text are held in memory.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bertds.data.tokenizer import Tokenizer
from data_prep.extended_vocabulary import extended, no_words
from data_prep.output.full_disk import explain_full_disk
from data_prep.output.manifest import is_up_to_date, write_manifest
from data_prep.readers.counts import add_kept, explain_nothing_kept, format_counts, warn_of_losses
from data_prep.readers.lines import line_batches
from data_prep.readers.sources import Inputs, Source, open_sources
from data_prep.tokenizer_file import write

FORMAT = 1  # to be raised when the same text gives other tokens
_NUM_SHOWN = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What new tokens change in a text.

    Attributes:
        words: Words of the text.
        changed: Those that are encoded in another way.
        before: Tokens of all words with the old tokenizer.
        after: Tokens of all words with the new one.
        uses: The new tokens that the text has, with their occurrences.
    """

    words: int
    changed: int
    before: int
    after: int
    uses: Counter[str]

    @classmethod
    def of(cls, words: Counter[str], old: Tokenizer, new: Tokenizer) -> Self:
        """Encode all words with both tokenizers."""
        changed = before = after = 0
        uses: Counter[int] = Counter()
        for word, count in words.items():
            old_ids, new_ids = old.pieces(word), new.pieces(word)
            before, after = before + count * len(old_ids), after + count * len(new_ids)
            if old_ids != new_ids:
                changed += count
                uses.update({number: count for number in new_ids if number >= old.vocab_size})
        names = new.tokens([*uses])
        return cls(
            words=words.total(),
            changed=changed,
            before=before,
            after=after,
            uses=Counter(dict(zip(names, uses.values(), strict=True))),
        )

    def lines(self) -> list[str]:
        """The figures, one line each."""
        before, after = self.before / self.words, self.after / self.words
        shorter = f"{1 - after / before:.1%} fewer tokens"
        examples = ", ".join(f"{name} ({n:,})" for name, n in self.uses.most_common(_NUM_SHOWN))
        return [
            f"pieces per word  {before:.3f} before, {after:.3f} after: {shorter}",
            f"words changed    {self.changed / self.words:.1%} of {self.words:,}",
            f"most frequent    {examples}",
        ]


def extend_tokenizer(inputs: Inputs | str, path: Path, num_tokens: int, out: Path) -> None:
    """Write a tokenizer.json with further tokens; a finished one is kept.

    Args:
        inputs: The text.
        path: The tokenizer.json, or a directory with one.
        num_tokens: Most new tokens.
        out: The tokenizer.json to write.

    Raises:
        ValueError: The tokenizer cannot be extended, or the text has nothing to add.
        FileExistsError: `out` holds another file.
    """
    if num_tokens < 1:
        raise ValueError(f"--add is {num_tokens}, expected at least 1")
    old = Tokenizer.load(path)
    manifest = out.with_name(f"{out.stem}.made.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        explain_full_disk("free some space, then run the same command again"),
        open_sources(inputs, out.parent) as sources,
    ):
        identities = [source.identity for source in sources]
        recipe = {"format": FORMAT, "extend": old.fingerprint, "add": num_tokens}
        recipe["sources"] = identities
        if is_up_to_date(manifest, [out], recipe):
            print(f"{out}: already finished, nothing to do")
            return
        words, counts = count_words(sources, old)
        print(f"{out}:\n{format_counts(counts)}")
        try:
            new = extended(old, words, num_tokens)
        except ValueError as error:
            raise ValueError(f"--extend {path}: {error}") from error
        change, added = Change.of(words, old, new), new.vocab_size - old.vocab_size
        write_manifest(manifest, recipe, {"added": added})
        try:
            write(out, new.content)
        except OSError:
            manifest.unlink(missing_ok=True)  # or it would claim the place of another tokenizer
            raise
    fewer = f" of {num_tokens:,}: the text has no more" if added < num_tokens else ""
    last = new.vocab_size - 1
    print(f"{out}: {added:,} new tokens{fewer}, ids {old.vocab_size:,} to {last:,}")
    print(*change.lines(), sep="\n")


def count_words(sources: list[Source], tokenizer: Tokenizer) -> tuple[Counter[str], Counter[str]]:
    """The words of a text, spelled as by the tokenizer, and what became of its lines.

    Raises:
        ValueError: There is no line.
    """
    counts: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for line in _lines(sources, tokenizer, counts):
        words.update(tokenizer.words(line))
    if not words:
        reason = explain_nothing_kept(counts, sources[0].column)
        raise ValueError(reason or "the text has no lines: give more text")
    add_kept(counts)
    warn_of_losses("tokenizer", counts)
    return words, counts


def _lines(sources: list[Source], tokenizer: Tokenizer, counts: Counter[str]) -> Iterator[str]:
    """The lines of a text, with blanks in place of all tokens that are no words."""
    names = no_words(tokenizer)
    pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    keeps = tokenizer.keeps_white_space
    for lines in line_batches(sources, "words", counts, keep_white_space=keeps):
        yield from (pattern.sub(" ", line) for line in lines)
