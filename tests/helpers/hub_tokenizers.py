"""Small tokenizers of the kinds that RoBERTa, XLM-RoBERTa and CamemBERT have on the Hub.

Components, ids of the special tokens and post-processors are those of the published files.
"""

import struct
from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from bertds.data.tokenizer import Tokenizer

MASK = AddedToken("<mask>", lstrip=True, special=True)


def hub_tokenizer(preset: str, lines: Iterable[str]) -> Tokenizer:
    """A tokenizer for these lines, as the published models of a preset have it."""
    return Tokenizer.of(hub_backend(preset, lines).to_str().encode(), preset)


def hub_backend(preset: str, lines: Iterable[str]) -> tokenizers.Tokenizer:
    """The library's object of it."""
    if preset == "roberta":
        return _byte_level()
    heads = {
        "xlm-roberta": ["<s>", "<pad>", "</s>", "<unk>"],
        # The first five are of fairseq, the others of SentencePiece: <unk> occurs twice.
        "camembert": ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>", "<s>", "</s>"],
    }
    return _unigram(heads[preset], lines)


def _byte_level() -> tokenizers.Tokenizer:
    names = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += ["Ġb", "Ġba", "<mask>"]
    merges = [("Ġ", "b"), ("Ġb", "a")]
    vocabulary = {name: number for number, name in enumerate(names)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", MASK])
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", names.index("</s>")), ("<s>", names.index("<s>")), add_prefix_space=False
    )
    return backend


def _unigram(head: list[str], lines: Iterable[str]) -> tokenizers.Tokenizer:
    words = sorted({word for line in lines for word in line.split()})
    letters = sorted({letter for word in words for letter in word})
    pieces = [*[f"▁{word}" for word in words[::2]], "▁", *letters]
    vocabulary = [(name, 0.0) for name in head]
    vocabulary += [(piece, -1.0 if len(piece) > 1 else -5.0) for piece in pieces]
    vocabulary.append(("<mask>", 0.0))
    backend = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=head.index("<unk>")))
    collapse = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.Precompiled(_charsmap()), collapse])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([*dict.fromkeys(head), MASK])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(name, head.index(name)) for name in ("<s>", "</s>")],
    )
    return backend


def _charsmap() -> bytes:
    """A character map of SentencePiece that turns `~` into a blank: a double array, and a text."""
    units = [0] * 512
    units[0] = 256 << 10
    units[256 ^ ord("~")] = 1 << 10 | 1 << 8 | ord("~")
    units[256 ^ ord("~") ^ 1] = 1 << 31
    array = struct.pack("<512I", *units)
    return struct.pack("<I", len(array)) + array + b" \0"
