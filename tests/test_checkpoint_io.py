"""Streamed safetensors against the safetensors library."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modules.checkpoints import checkpoint_io
from modules.checkpoints.checkpoint_io import CheckpointWriter, TensorFile, open_weights, parse_size, plan_shards
from modules.checkpoints.tensor_hashes import known_hashes
from modules.errors import UserError

TENSORS = {
    "a": torch.randn(3, 4),
    "b": torch.randn(5).bfloat16(),
    "c": torch.tensor(2.5),
    "d": torch.arange(7),
    "e": torch.randn(2, 0),
    "f": torch.tensor([True, False, True]),
    "g": torch.randn(2, 2, 2).half(),
}
SPECS = {key: (t.dtype, tuple(t.shape)) for key, t in TENSORS.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("chunk", [2, 1 << 20])
def test_tensors_are_read_as_they_were_saved(file: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_io, "CHUNK", chunk)
    tensors = TensorFile(file)
    for key, expected in TENSORS.items():
        assert torch.equal(tensors.read(key), expected)
        if expected.is_floating_point():
            out = torch.empty(expected.shape)
            assert torch.equal(tensors.read(key, out), expected.float())


def test_parts_are_the_whole_and_hashed_as_the_whole(tmp_path: Path) -> None:
    tensor = torch.randn(5, 7).bfloat16()
    for name in ("in order", "otherwise"):
        save_file({"x": tensor}, tmp_path / name)
    parts = [(start, torch.empty(min(8, 35 - start))) for start in range(0, 35, 8)]
    file, other = TensorFile(tmp_path / "in order"), TensorFile(tmp_path / "otherwise")
    for start, out in parts:
        file.read("x", out, start)
    assert torch.equal(torch.cat([out for _, out in parts]), tensor.float().flatten())
    for start, out in reversed(parts):
        other.read("x", out.zero_(), start)
    assert torch.equal(torch.cat([out for _, out in parts]), tensor.float().flatten())
    expected = hashlib.sha256(tensor.view(torch.uint8).numpy().tobytes()).hexdigest()
    assert known_hashes(tmp_path / "in order") == {"x": expected}
    assert known_hashes(tmp_path / "otherwise") == {}
    with CheckpointWriter(tmp_path / "out", {"x": (torch.bfloat16, (5, 7))}, 100) as writer:
        for start, out in reversed(parts):
            writer.write("x", out, start)
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["x"], tensor)


@pytest.mark.parametrize("max_bytes", [20, 60, 10**9])
def test_what_is_written_in_any_order_is_what_safetensors_reads(tmp_path: Path, max_bytes: int) -> None:
    with CheckpointWriter(tmp_path, SPECS, max_bytes) as writer:
        for key in sorted(TENSORS, reverse=True):
            writer.write(key, TENSORS[key])
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (max_bytes < 10**9)
    read = {key: tensor for file in files for key, tensor in load_file(file).items()}
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[key], TENSORS[key]) and read[key].dtype == TENSORS[key].dtype for key in TENSORS)
    with safe_open(files[0], "pt") as first:
        assert first.metadata() == {"format": "pt"}
    if len(files) > 1:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in TENSORS.values())
        assert all(key in load_file(tmp_path / name) for key, name in index["weight_map"].items())
        assert [file.path for file in open_weights(tmp_path)] == files


def test_a_writer_casts_and_notices_what_does_not_fit(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, {"x": (torch.bfloat16, (3,))}, 100) as writer:
        writer.write("x", torch.tensor([1.0, 1 / 3, -2.0]))
    assert torch.equal(load_file(tmp_path / "model.safetensors")["x"], torch.tensor([1.0, 1 / 3, -2.0]).bfloat16())
    with (
        pytest.raises(UserError, match="x has merged entries that float16 cannot hold; use a wider --dtype"),
        CheckpointWriter(tmp_path, {"x": (torch.float16, (1,))}, 100) as writer,
    ):
        writer.write("x", torch.tensor([1e6]))


def test_a_forgotten_tensor_is_noticed(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="not written: x"),
        CheckpointWriter(tmp_path, {"x": (torch.half, (1,))}, 9),
    ):
        pass


def test_a_shard_is_full_at_its_size() -> None:
    specs = {key: (torch.float32, (size,)) for key, size in {"a": 1, "b": 2, "c": 9, "d": 1, "e": 1}.items()}
    assert plan_shards(specs, 12) == [["a", "b"], ["c"], ["d", "e"]]


def test_not_finite_entries_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([1.0, float("nan")])}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="w has NaN or infinite entries"):
        TensorFile(tmp_path / "model.safetensors").read("w")


def test_broken_files_are_refused(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"is cut short: it has {len(content) - 1} bytes of {len(content)}"):
        TensorFile(broken)
    for text in (b"", b"\x80\x04 a pickle, say", b"\x02\0\0\0\0\0\0\0[]"):
        broken.write_bytes(text)
        with pytest.raises(UserError, match="is no safetensors file"):
            TensorFile(broken)
    broken.write_bytes(content.replace(b'"BF16"', b'"F8E5"'))
    with pytest.raises(UserError, match="b is F8E5: quantised weights cannot be merged"):
        TensorFile(broken)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no weights as model.safetensors or shards; save the model as safetensors"):
        open_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(UserError, match="model-1.safetensors cannot be read: No such file"):
        open_weights(tmp_path)


def test_sizes() -> None:
    assert [parse_size(text) for text in ("5GB", "1.5 MB", "2GiB", "300")] == [5 * 10**9, 1_500_000, 2**31, 300]
    for text in ("five", "5XB", "0", ""):
        with pytest.raises(UserError, match="max_shard_size is"):
            parse_size(text)
