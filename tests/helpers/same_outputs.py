"""Compares two Hugging Face directories with the transformers version of this process.

python -m tests.helpers.same_outputs SOURCE EXPORT
"""

import json
import sys
from pathlib import Path

import torch
import transformers

TEXTS = ["ba co [MASK] fin go", "가 나 달"]
PAIRS = ["ba co der", "[MASK] jun"], ["fin [MASK]", "kel"]


@torch.no_grad()
def check_same_outputs(source: Path, export: Path) -> list[int]:
    """Check ids, token types and outputs of single texts and of pairs; encoders if one has no head.

    Returns:
        The token types of the pairs, if the tokenizer gives any.
    """
    has_head = all("MaskedLM" in name or "PreTraining" in name for name in _architectures(source))
    auto = transformers.AutoModelForMaskedLM if has_head else transformers.AutoModel
    before, after = (auto.from_pretrained(path).eval() for path in (source, export))
    theirs, ours = (transformers.AutoTokenizer.from_pretrained(path) for path in (source, export))
    for texts in ((TEXTS,), PAIRS):
        expected = theirs(*texts, padding=True, return_tensors="pt")
        inputs = ours(*texts, padding=True, return_tensors="pt")
        assert {**inputs}.keys() == {**expected}.keys()
        assert all(torch.equal(inputs[key], expected[key]) for key in inputs)
        types = inputs.get("token_type_ids", torch.zeros(0, dtype=torch.long))
        if not getattr(before.config, "type_vocab_size", 0):  # the class has no token types
            inputs.pop("token_type_ids", None)
        outputs, wanted = after(**inputs).to_tuple(), before(**inputs).to_tuple()
        for ours_given, theirs_given in zip(outputs, wanted, strict=True):
            torch.testing.assert_close(ours_given, theirs_given, rtol=1e-5, atol=1e-5)
    return types.flatten().tolist()


def _architectures(directory: Path) -> list[str]:
    names: list[str] = json.loads((directory / "config.json").read_text())["architectures"]
    return names


if __name__ == "__main__":
    check_same_outputs(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"same outputs with transformers {transformers.__version__}")
