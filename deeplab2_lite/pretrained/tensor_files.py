"""Files of named tensors: PyTorch state dicts, safetensors and .npz, read with NumPy alone.

A PyTorch file is a pickle beside raw numbers. Only what a tensor needs is unpickled, nothing of it is
run, and PyTorch itself is not needed.
"""

from __future__ import annotations

import collections
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from deeplab2_lite.errors import UserError

# Before PyTorch 1.6 a file was five pickles and then the numbers.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
# Where training scripts put the weights beside other state.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a file.

    Args:
        path: `.safetensors`, `.npz`, or a file of `torch.save` of any version that holds a state dict,
            alone or as "state_dict" or "model" among others.

    Returns:
        Arrays by name, without the modules that all of them lie in ("module." of parallel training).

    Raises:
        UserError: There is no such file, or it holds something else.
    """
    path = Path(path)
    try:
        readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
        tensors = readers.get(path.suffix, _read_torch)(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, IndexError, EOFError, struct.error, zipfile.BadZipFile, pickle.PickleError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: no readable file of tensors ({' '.join(str(error).split())[:200]})") from None
    while len({name.partition(".")[0] for name in tensors}) == 1 and all(name.count(".") > 1 for name in tensors):
        tensors = {name.partition(".")[2]: value for name, value in tensors.items()}
    return tensors


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file.items())


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            numbers = _numbers(content[first:last], _SAFETENSORS[entry["dtype"]])
            tensors[name] = numbers.reshape(entry["shape"])
    return tensors


def _numbers(content: bytes, kind: str) -> np.ndarray:
    if kind == "bfloat16":
        # The upper half of a float32.
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, kind)


class _Storage(NamedTuple):
    """Raw numbers that tensors are views of."""

    key: str
    kind: str


class _Tensor(NamedTuple):
    """A view of a storage, in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, content: bytes) -> np.ndarray:
        numbers = _numbers(content, self.storage.kind)
        if 0 in self.shape:
            return np.zeros(self.shape, numbers.dtype)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if min(self.offset, *self.strides, 0) < 0 or last >= numbers.size:
            raise ValueError(f"storage {self.storage.key} is too small")
        strides = [step * numbers.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides, writeable=False)


class _Unpickler(pickle.Unpickler):
    """Unpickles tensors, plain values and containers of them, and refuses everything else.

    `kinds` has the types of the storages by key.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.kinds: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, tuple(shape), tuple(strides))
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda data, *_: data
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"holds a {module}.{name}, which is no tensor; save the state dict alone")

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, *_ = pid
        self.kinds[str(key)] = kind
        return _Storage(str(key), kind)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    content = _load_torch(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    tensors = {k: v for k, v in content.items() if isinstance(v, np.ndarray)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise UserError(f"{path}: holds no state dict; expected tensors by name")
    return tensors


def _load_torch(path: Path) -> Any:
    """Returns what was saved, with arrays in place of tensors."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            (name,) = (n for n in file.namelist() if n.endswith("/data.pkl"))
            folder = name.removesuffix("data.pkl")
            content = _Unpickler(io.BytesIO(file.read(name))).load()
            return _with_arrays(content, lambda storage: file.read(f"{folder}data/{storage.key}"))
    with path.open("rb") as file:
        return _read_legacy(file)


def _read_legacy(file: BinaryIO) -> Any:
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise ValueError("neither .safetensors, .npz nor of torch.save")
    # Version of the protocol, and sizes of the writer's integers.
    for _ in range(2):
        _Unpickler(file).load()
    unpickler = _Unpickler(file)
    content = unpickler.load()
    keys = _Unpickler(file).load()
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        kind = unpickler.kinds[str(key)]
        storages[str(key)] = file.read(count * (2 if kind == "bfloat16" else np.dtype(kind).itemsize))
    return _with_arrays(content, lambda storage: storages[storage.key])


def _with_arrays(content: Any, read: Callable[[_Storage], bytes]) -> Any:
    if isinstance(content, _Tensor):
        return content.array(read(content.storage))
    if isinstance(content, Mapping):
        return {name: _with_arrays(value, read) for name, value in content.items()}
    return content
