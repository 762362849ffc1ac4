"""Tensors and what numpy makes of them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from wasi_nn import Tensor, TensorInfo, TensorType


@pytest.mark.parametrize(
    ("dtype", "kind", "size"),
    [
        (np.float16, TensorType.F16, 2),
        (np.float32, TensorType.F32, 4),
        (np.float64, TensorType.F64, 8),
        (ml_dtypes.bfloat16, TensorType.BF16, 2),
        (np.uint8, TensorType.U8, 1),
        (np.int32, TensorType.I32, 4),
        (np.int64, TensorType.I64, 8),
    ],
)
def test_arrays_come_back_as_they_were(dtype, kind, size):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    tensor = Tensor.of(array)
    assert (tensor.type, tensor.dims, tensor.type.size) == (kind, (2, 3), size)
    assert len(tensor.data) == 6 * size
    back = tensor.numpy()
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array)


def test_a_contiguous_array_is_not_copied():
    array = np.zeros(4, np.float32)
    tensor = Tensor.of(array)
    array[0] = 1
    assert tensor.numpy()[0] == 1


def test_an_array_from_a_tensor_belongs_to_the_caller():
    array = np.zeros(4, np.float32)
    copy = Tensor.of(array).numpy()
    array[0] = 1
    assert copy[0] == 0


def test_other_memory_orders_and_scalars():
    transposed = np.arange(6, dtype=np.int32).reshape(2, 3).T
    np.testing.assert_array_equal(Tensor.of(transposed).numpy(), transposed)
    assert Tensor.of(np.int64(7)).dims == ()
    assert Tensor.of(np.int64(7)).numpy() == 7


def test_other_byte_orders_and_bools():
    array = np.array([1.5, 2], ">f4")
    np.testing.assert_array_equal(Tensor.of(array).numpy(), [1.5, 2])
    tensor = Tensor.of(np.array([True, False]))
    assert tensor.type is TensorType.U8
    assert tensor.numpy().tolist() == [1, 0]


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1 + 2j]), np.array([1], np.uint16)])
def test_numpy_types_without_a_tensor_type_are_refused(array):
    with pytest.raises(TypeError, match="no tensor type"):
        Tensor.of(array)


def test_describe():
    assert TensorInfo("x", TensorType.I32, (-1, 2048)).describe() == "x: i32[?, 2048]"
    assert TensorInfo("s", None, (), "tensor(string)").describe() == "s: tensor(string)[]"
    assert TensorInfo("y", TensorType.F32, None).describe() == "y: f32"


@pytest.mark.parametrize(("given", "carrier"), [("i1", "uint8"), ("u4", "int32"), ("u8", "int64")])
def test_a_refused_numpy_type_is_told_which_type_carries_its_bits(given, carrier):
    with pytest.raises(TypeError, match=rf'array\.view\("{carrier}"\)'):
        Tensor.of(np.zeros(2, given))
