"""The tensor files of a checkpoint: pieces of flattened tensors, by name and offset.

A checkpoint's numbers lie in ``rank_00000.safetensors`` ..., one file for each process that wrote
it. A *fragment* is a contiguous piece of one flattened tensor, under the key
``kind|parameter name|offset``; its kind is ``weight`` or what the optimizer calls its moment
(``exp_avg``, ...); numbers are fp32. Together the files hold every element exactly once, however
the writing processes had divided them, so any number of readers can take any range. Small tensors
of one process alone (generators) are kept as ``local|name|0``.

The files are plain safetensors, written here by hand to hash while writing and to copy one
fragment at a time from the device; so a save needs no second copy of the model, and one pass over
the bytes. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open

WEIGHT = "weight"
LOCAL = "local"
_CHUNK_BYTES = 8 << 20
_SAFETENSORS_DTYPES = {torch.float32: "F32", torch.uint8: "U8"}


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read or trusted; says why in one sentence."""

    code = 4


class WrittenFile(NamedTuple):
    """What the manifest says of one file."""

    name: str
    bytes: int
    sha256: str


def file_name(rank: int) -> str:
    """The tensor file that process ``rank`` writes."""
    return f"rank_{rank:05d}.safetensors"


def key_of(kind: str, name: str, start: int = 0) -> str:
    """The key of the fragment of ``name`` that begins at flat element ``start``."""
    return f"{kind}|{name}|{start}"


def write_fragments(path: Path, fragments: Mapping[str, torch.Tensor]) -> WrittenFile:
    """Writes flat tensors to one safetensors file, on disk when this returns.

    Args:
        path: the file, which must not exist.
        fragments: key to tensor, on any device; floating-point ones become fp32. They are copied
            to the host one at a time.

    Raises:
        OSError: the disk is full, or the path cannot be written.
    """
    with path.open("xb") as file, ThreadPoolExecutor(1) as hasher:
        digest = hashlib.sha256()
        for chunk in _file_chunks(fragments):
            hashed = hasher.submit(digest.update, chunk)
            file.write(chunk)
            hashed.result()
        file.flush()
        os.fsync(file.fileno())
        return WrittenFile(path.name, file.tell(), digest.hexdigest())


def write_json(path: Path, value: Mapping[str, Any]) -> WrittenFile:
    """Writes plain JSON, on disk when this returns.

    Raises:
        OSError: the disk is full, or the path cannot be written.
        ValueError, TypeError: the value holds NaN, infinity or something that JSON cannot say.
    """
    data = json.dumps(value, allow_nan=False, indent=1).encode()
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return WrittenFile(path.name, len(data), hashlib.sha256(data).hexdigest())


def sha256_of(path: Path) -> str:
    """The hash of a whole file, as hexadecimal digits (about 1.5 GB/s from the page cache)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FragmentReader:
    """Reads ranges of flattened tensors from the files of one checkpoint.

    Only headers are read on opening; a range costs its own bytes.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        """Opens the files.

        Raises:
            CheckpointError: a file cannot be opened, or is not safetensors.
        """
        self._stack = ExitStack()
        self._fragments: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}
        self._kinds: dict[str, set[str]] = {}
        for path in paths:
            try:
                file = self._stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                self._stack.close()
                raise CheckpointError(f"{path} cannot be read ({error}).") from error
            self._index(file)
        for fragments in self._fragments.values():
            fragments.sort(key=lambda fragment: fragment[0])

    def __enter__(self) -> Self:
        """Nothing more to open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the files."""
        self._stack.close()

    def kinds(self, name: str) -> set[str]:
        """What is stored of a parameter: ``weight`` and its moments."""
        return self._kinds.get(name, set())

    def read_into(self, kind: str, name: str, start: int, out: torch.Tensor) -> None:
        """Fills ``out`` (flat, any device and dtype) with elements from ``start`` on.

        Raises:
            CheckpointError: the files do not hold the whole range.
        """
        position, end = start, start + out.numel()
        for begin, length, file, key in self._fragments.get((kind, name), []):
            low, high = max(begin, position), min(begin + length, end)
            if low > position and position < end:
                break
            if low < high:
                out[low - start : high - start].copy_(
                    file.get_slice(key)[low - begin : high - begin]
                )
                position = high
        if position < end:
            raise CheckpointError(
                f"The checkpoint holds no {kind} of {name} from element {position} on, so its "
                "files are not those of one save."
            )

    def local(self, path: Path) -> dict[str, torch.Tensor]:
        """The small tensors that one process kept for itself, by name."""
        with safe_open(path, framework="pt") as file:
            keys = [key for key in file.keys() if key.startswith(f"{LOCAL}|")]  # noqa: SIM118
            return {key.split("|")[1]: file.get_tensor(key) for key in keys}

    def _index(self, file: Any) -> None:
        for key in file.keys():  # noqa: SIM118  (a safetensors file is no mapping)
            kind, name, start = key.split("|")
            if kind == LOCAL:
                continue
            (length,) = file.get_slice(key).get_shape()
            fragment = (int(start), length, file, key)
            self._fragments.setdefault((kind, name), []).append(fragment)
            self._kinds.setdefault(name, set()).add(kind)


def _file_chunks(fragments: Mapping[str, torch.Tensor]) -> Iterable[bytes | memoryview]:
    """The file's bytes in order: length of the header, header, data."""
    header: dict[str, dict[str, Any]] = {}
    offset = 0
    for key, tensor in fragments.items():
        dtype = _stored_dtype(tensor)
        end = offset + tensor.numel() * dtype.itemsize
        header[key] = {
            "dtype": _SAFETENSORS_DTYPES[dtype],
            "shape": [tensor.numel()],
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in fragments.values():
        stored = tensor.detach().to("cpu", _stored_dtype(tensor)).contiguous()
        data = memoryview(stored.numpy().data).cast("B")
        for start in range(0, len(data), _CHUNK_BYTES):
            yield data[start : start + _CHUNK_BYTES]


def _stored_dtype(tensor: torch.Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else torch.uint8
