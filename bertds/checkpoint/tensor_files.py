"""The tensor files of a checkpoint: fragments of flattened tensors, by name and offset.

Each rank writes one file, `rank_00000.safetensors` and so on. A *fragment* is a contiguous piece of
a flattened tensor under the key `kind|parameter name|offset`. The kind is `weight` or the
optimizer's name of a moment (`exp_avg`, ...), or `ema`. Numbers are fp32. Together the files hold every
element exactly once, however the ranks had divided them. So any number of readers can read any
range.

The files are plain safetensors. They are written by hand, to hash while writing and to copy one
fragment at a time from the device: a save is one pass over the bytes and needs no second copy of
the model. Nothing is pickled.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bertds.checkpoint.directory import Checkpoint, WrittenFile
from bertds.engine.optimizer_state import EMA, WEIGHT, TensorKey
from bertds.errors import CheckpointError
from bertds.model.mlm import MaskedLanguageModel

_CHUNK_BYTES = 8 << 20
_MEAN_CHUNK = 1 << 22  # numbers that are averaged at a time


class _Fragment(NamedTuple):
    """The position of a fragment."""

    start: int
    length: int
    file: Any
    key: str


def file_name(rank: int) -> str:
    """The tensor file that a rank writes."""
    return f"rank_{rank:05d}.safetensors"


def write_fragments(path: Path, fragments: Mapping[TensorKey, Tensor]) -> WrittenFile:
    """Write flat tensors to one safetensors file and flush it to disk.

    Args:
        path: The file, which must not exist.
        fragments: Flat tensors on any device; all become fp32.

    Returns:
        Its size and hash.

    Raises:
        OSError: The disk is full, or the path cannot be written.
    """
    digest = hashlib.sha256()
    with path.open("xb") as file, ThreadPoolExecutor(1) as hasher:
        for chunk in _file_chunks(fragments):
            hashed = hasher.submit(digest.update, chunk)
            file.write(chunk)
            hashed.result()
        file.flush()
        os.fsync(file.fileno())
        return WrittenFile(path.name, file.tell(), digest.hexdigest())


class FragmentReader:
    """Reads ranges of flattened tensors from the files of one checkpoint.

    Opening reads the headers only; a range costs its own bytes.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        """Open the files.

        Raises:
            CheckpointError: A file cannot be opened, or is not safetensors.
        """
        self._stack = ExitStack()
        self._fragments: dict[tuple[str, str], list[_Fragment]] = {}
        self._kinds: dict[str, set[str]] = {}
        for path in paths:
            try:
                self._index(self._stack.enter_context(safe_open(path, framework="pt")))
            except (OSError, ValueError, SafetensorError) as error:
                self._stack.close()
                raise CheckpointError(f"{path} cannot be read ({error})") from error
        for fragments in self._fragments.values():
            fragments.sort(key=lambda fragment: fragment.start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def kinds(self, name: str) -> set[str]:
        """The kinds that are stored of a parameter: `weight` and its moments."""
        return self._kinds.get(name, set())

    def read_into(self, kind: str, name: str, start: int, out: Tensor) -> None:
        """Fill `out` (flat, any device and dtype) with the elements from `start` on.

        Raises:
            CheckpointError: The files do not hold the whole range.
        """
        position, end = start, start + out.numel()
        for begin, length, file, key in self._fragments.get((kind, name), []):
            low, high = max(begin, position), min(begin + length, end)
            if begin > position:
                break
            if low < high:
                piece = file.get_slice(key)[low - begin : high - begin]
                out[low - start : high - start].copy_(piece)
                position = high
        if position < end:
            raise CheckpointError(
                f"the checkpoint holds no {kind} of {name} from element {position} on: its files are "
                "not of one save"
            )

    def _index(self, file: Any) -> None:
        for key in file.keys():  # noqa: SIM118  (a safetensors file is no mapping)
            kind, name, start = key.split("|")
            (length,) = file.get_slice(key).get_shape()
            fragment = _Fragment(int(start), length, file, key)
            self._fragments.setdefault((kind, name), []).append(fragment)
            self._kinds.setdefault(name, set()).add(kind)


def _file_chunks(fragments: Mapping[TensorKey, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of the file in order: length of the header, header, data."""
    header: dict[str, dict[str, Any]] = {}
    offset = 0
    for key, tensor in fragments.items():
        end = offset + 4 * tensor.numel()
        header["|".join(map(str, key))] = {
            "dtype": "F32",
            "shape": [tensor.numel()],
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in fragments.values():
        data = memoryview(tensor.detach().to("cpu", torch.float32).numpy().data).cast("B")
        for start in range(0, len(data), _CHUNK_BYTES):
            yield data[start : start + _CHUNK_BYTES]


def has_ema(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds the moving average of every parameter."""
    with FragmentReader(checkpoint.tensor_files) as reader:
        return all(EMA in reader.kinds(name) for name in checkpoint.manifest["parameters"])


def read_weights(
    checkpoints: Sequence[Checkpoint], model: MaskedLanguageModel, kind: str = WEIGHT
) -> None:
    """Fill a model on the CPU with the mean of the fp32 weights of checkpoints.

    Parameters are read in chunks, so peak memory is the model and a few chunks, apart from pages of
    the files, which the system can drop. The sum is in float64, so the mean is rounded once and does
    not depend on the order. The mean of one checkpoint is the checkpoint, bit-exact.

    Args:
        checkpoints: One or several.
        model: The model to fill.
        kind: `weight`, or `ema` for the moving averages of the weights.

    Raises:
        CheckpointError: A checkpoint is of another model, or holds no moving average.
    """
    for checkpoint in checkpoints:
        _check_model(checkpoint, model)
    with torch.no_grad(), ExitStack() as stack:
        readers = [stack.enter_context(FragmentReader(each.tensor_files)) for each in checkpoints]
        for name, parameter in model.named_parameters():
            start = 0
            for chunk in torch.split(parameter.view(-1), _MEAN_CHUNK):
                _read_mean(readers, (kind, name), start, chunk)
                start += chunk.numel()


def _check_model(checkpoint: Checkpoint, model: MaskedLanguageModel) -> None:
    held = checkpoint.manifest["parameters"]
    for name, parameter in model.named_parameters():
        if held.get(name) != list(parameter.shape):
            raise CheckpointError(
                f"{checkpoint.path} holds {name} in shape {held.get(name, 'none')}, "
                f"case.json and tokenizer.json of the run give {list(parameter.shape)}: "
                "restore them"
            )


def _read_mean(
    readers: Sequence[FragmentReader], key: tuple[str, str], start: int, out: Tensor
) -> None:
    """Fill `out` with the mean of what each reader holds of a kind and a name from `start` on."""
    first, *others = readers
    first.read_into(*key, start, out)
    if not others:
        return
    total = out.double()
    for reader in others:
        reader.read_into(*key, start, out)
        total += out
    out.copy_(total.div_(len(readers)))
