"""Files of tensors are read as PyTorch writes them, and nothing in them is run."""

from __future__ import annotations

import collections
import io
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from deeplab2_lite.errors import UserError
from deeplab2_lite.pretrained.tensor_files import read_tensors

from .files import save_safetensors

RANDOM = np.random.default_rng(0)
NUMBERS = RANDOM.normal(size=60).astype(np.float32)
# Truncated to the upper half: what bfloat16 holds.
HALVES = (NUMBERS[:6].view(np.uint32) >> 16).astype(np.uint16)
TENSORS = {
    "conv.weight": NUMBERS.reshape(3, 4, 5),
    "conv.view": NUMBERS.reshape(10, 6)[2:5, 1:6:2],
    "conv.transposed": NUMBERS.reshape(10, 6).T,
    "bn.half": NUMBERS[:7].astype(np.float16),
    "bn.bfloat16": (HALVES.astype(np.uint32) << 16).view(np.float32),
    "bn.num_batches_tracked": np.array(2**40 + 1),
    "bn.flags": np.array([True, False]),
    "bn.empty": np.zeros((0, 3), np.float32),
}
# Key, type and content of the storages, and the tensors' (key, offset, shape, strides) on them.
STORAGES = {
    "0": ("FloatStorage", NUMBERS),
    "1": ("HalfStorage", TENSORS["bn.half"]),
    "2": ("BFloat16Storage", HALVES),
    "3": ("LongStorage", TENSORS["bn.num_batches_tracked"][None]),
    "4": ("BoolStorage", TENSORS["bn.flags"]),
    "5": ("FloatStorage", np.zeros(0, np.float32)),
}
VIEWS = {
    "conv.weight": ("0", 0, (3, 4, 5), (20, 5, 1)),
    "conv.view": ("0", 13, (3, 3), (6, 2)),
    "conv.transposed": ("0", 0, (6, 10), (1, 6)),
    "bn.half": ("1", 0, (7,), (1,)),
    "bn.bfloat16": ("2", 0, (6,), (1,)),
    "bn.num_batches_tracked": ("3", 0, (), ()),
    "bn.flags": ("4", 0, (2,), (1,)),
    "bn.empty": ("5", 0, (0, 3), (3, 1)),
}


class View:
    """Pickles as a tensor of PyTorch does."""

    def __init__(self, key, *place):
        self.key, self.place = key, place

    def __reduce__(self):
        arguments = (Storage(self.key), *self.place, False, collections.OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments


class Storage:
    def __init__(self, key):
        self.key = key


class Pickler(pickle.Pickler):
    """Notes the storages that it meets."""

    def __init__(self, file):
        super().__init__(file, 2)
        self.keys = []

    def persistent_id(self, item):
        if not isinstance(item, Storage):
            return None
        kind, numbers = STORAGES[item.key]
        self.keys = list(dict.fromkeys([*self.keys, item.key]))
        return "storage", getattr(sys.modules["torch"], kind), item.key, "cuda:0", numbers.size


@pytest.fixture
def torch_names(monkeypatch):
    """Names that a pickle of PyTorch refers to."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in {kind for kind, _ in STORAGES.values()}:
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    utils._rebuild_tensor_v2 = types.FunctionType((lambda *_: None).__code__, {}, "_rebuild_tensor_v2")
    utils._rebuild_tensor_v2.__module__ = "torch._utils"
    utils._rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def dump(content):
    buffer = io.BytesIO()
    pickler = Pickler(buffer)
    pickler.dump(content)
    return buffer.getvalue(), pickler.keys


def write_zip(path, content, root="archive"):
    with zipfile.ZipFile(path, "w") as file:
        text, keys = dump(content)
        file.writestr(f"{root}/data.pkl", text)
        for key in keys:
            file.writestr(f"{root}/data/{key}", STORAGES[key][1].tobytes())
        file.writestr(f"{root}/version", "3\n")
    return path


def write_legacy(path, content):
    text, keys = dump(content)
    parts = [dump(item)[0] for item in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    parts += [text, dump(keys)[0]]
    for key in keys:
        numbers = STORAGES[key][1]
        parts += [struct.pack("<q", numbers.size), numbers.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def views(prefix=""):
    return collections.OrderedDict((prefix + name, View(*place)) for name, place in VIEWS.items())


def assert_same(actual, expected=TENSORS):
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert (actual[name].shape, actual[name].dtype) == (array.shape, array.dtype), name
        np.testing.assert_array_equal(actual[name], array)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.usefixtures("torch_names")
class TestTorchFiles:
    def test_every_kind_of_tensor(self, write, tmp_path):
        assert_same(read_tensors(write(tmp_path / "model.pth", views())))

    @pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
    def test_a_checkpoint_of_training(self, write, key, tmp_path):
        content = {"epoch": 3, "arguments": {"rate": [0.1, None]}, key: views("module.")}
        assert_same(read_tensors(write(tmp_path / "model.pth", content)))

    def test_other_objects_are_refused_by_name(self, write, tmp_path):
        path = write(tmp_path / "model.pth", {"state_dict": views(), "worse": struct.Struct})
        with pytest.raises(UserError, match=r"model\.pth: .*holds a _?struct\.Struct, which is no tensor"):
            read_tensors(path)

    def test_nothing_is_run(self, write, tmp_path):
        class Trap:
            def __reduce__(self):
                return open, (str(tmp_path / "sprung"), "w")

        with pytest.raises(UserError, match="which is no tensor"):
            read_tensors(write(tmp_path / "model.pth", {"trap": Trap()}))
        assert not (tmp_path / "sprung").exists()

    def test_a_view_beyond_its_storage(self, write, tmp_path):
        for place in (("0", 50, (4, 4), (4, 1)), ("0", -1, (2,), (1,)), ("0", 5, (3,), (-1,))):
            with pytest.raises(UserError, match="storage 0 is too small"):
                read_tensors(write(tmp_path / "model.pth", {"a": View(*place)}))

    def test_no_tensors(self, write, tmp_path):
        for content in ({"a": 1}, [1, 2], "text"):
            with pytest.raises(UserError, match=r"model\.pth: holds no state dict; expected tensors by name"):
                read_tensors(write(tmp_path / "model.pth", content))

    def test_a_cut_file(self, write, tmp_path):
        path = write(tmp_path / "model.pth", views())
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(UserError, match=r"model\.pth: ") as caught:
            read_tensors(path)
        assert "\n" not in str(caught.value)


def test_safetensors_and_npz(tmp_path):
    tensors = {"a.weight": NUMBERS.reshape(3, 4, 5), "b.bias": NUMBERS[:7].astype(np.float16), "n": np.array([7])}
    assert_same(read_tensors(save_safetensors(tmp_path / "model.safetensors", tensors)), tensors)
    np.savez(tmp_path / "model.npz", **tensors)
    assert_same(read_tensors(tmp_path / "model.npz"), tensors)


@pytest.mark.parametrize("name", ["model.pth", "model.npz", "model.safetensors"])
def test_no_such_file_and_no_such_content(name, tmp_path):
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        read_tensors(tmp_path / name)
    for content in (b"", b"no file of tensors at all"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: ") as caught:
            read_tensors(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("new_format", [True, False])
def test_pytorch_itself(new_format, tmp_path):
    torch = pytest.importorskip("torch")
    whole = torch.from_numpy(NUMBERS.copy()).reshape(10, 6)
    saved = {"a.view": whole[2:5, 1:6:2], "b.transposed": whole.t(), "c.half": whole[0].half()}
    torch.save({"state_dict": saved}, tmp_path / "model.pth", _use_new_zipfile_serialization=new_format)
    assert_same(read_tensors(tmp_path / "model.pth"), {name: tensor.numpy() for name, tensor in saved.items()})
