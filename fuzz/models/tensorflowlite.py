"""TensorFlow Lite: models built operator by operator, and mutated flatbuffers.

A built model has a few operators of any kind, with options of any value, over tensors whose types,
dimensions and number fit only by chance. A mutant is a sound model that was unpacked into its
tables, changed in some fields, and packed again.
"""

from __future__ import annotations

import functools
import struct
from typing import Any

from authoring import networks
from fuzz.chance import Chance
from fuzz.models.seeds import canonical, written
from fuzz.trial import Trial

_ENCODING = "tensorflowlite"
_TYPES = ("FLOAT32",) * 8 + ("INT32",) * 3 + ("INT8", "UINT8", "INT16", "INT64", "BOOL", "FLOAT16")
_RARE_TYPES = (
    "STRING",
    "COMPLEX64",
    "FLOAT64",
    "INT4",
    "UINT32",
    "RESOURCE",
    "VARIANT",
    "BFLOAT16",
)
_SIZES = {"FLOAT32": 4, "INT32": 4, "INT8": 1, "UINT8": 1, "INT16": 2, "INT64": 8, "BOOL": 1,
          "FLOAT16": 2}  # fmt: skip
_FORMATS = {4: "<f", 1: "<b", 2: "<h", 8: "<q"}
_MAX_ELEMENTS = 4096


@functools.cache
def _schema() -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


@functools.cache
def _operators() -> list[str]:
    return sorted(n for n in dir(_schema().BuiltinOperator) if n[0].isupper())


@functools.cache
def _inputs() -> dict[str, int]:
    """The number of inputs of operators that reject every other one."""
    one = (
        "ABS CAST CEIL COS DEPTH_TO_SPACE DEQUANTIZE ELU EXP FAKE_QUANT FLOOR GELU HARD_SWISH "
        "L2_NORMALIZATION LEAKY_RELU LOCAL_RESPONSE_NORMALIZATION LOG LOGICAL_NOT LOGISTIC "
        "LOG_SOFTMAX MATRIX_DIAG NEG QUANTIZE RANK RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 ROUND "
        "RSQRT SHAPE SIGN SIN SOFTMAX SPACE_TO_DEPTH SQRT SQUARE SQUEEZE TANH UNIQUE UNPACK WHERE "
        "ZEROS_LIKE AVERAGE_POOL_2D MAX_POOL_2D L2_POOL_2D REAL IMAG COMPLEX_ABS BITCAST"
    )
    two = (
        "ADD SUB MUL DIV FLOOR_DIV FLOOR_MOD POW MAXIMUM MINIMUM SQUARED_DIFFERENCE ATAN2 EQUAL "
        "NOT_EQUAL LESS LESS_EQUAL GREATER GREATER_EQUAL LOGICAL_AND LOGICAL_OR BITWISE_XOR "
        "RIGHT_SHIFT MEAN SUM REDUCE_PROD REDUCE_MAX REDUCE_MIN REDUCE_ANY REDUCE_ALL ARG_MAX "
        "ARG_MIN GATHER GATHER_ND RESHAPE TRANSPOSE PAD MIRROR_PAD TILE EXPAND_DIMS FILL CUMSUM "
        "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 REVERSE_SEQUENCE TOPK_V2 SPLIT "
        "BROADCAST_TO BATCH_MATMUL PRELU SEGMENT_SUM EMBEDDING_LOOKUP RFFT2D DYNAMIC_UPDATE_SLICE"
    )
    three = (
        "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED SELECT SELECT_V2 SLICE SPLIT_V "
        "SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND SCATTER_ND PADV2 RANGE TRANSPOSE_CONV CONV_3D "
        "MATRIX_SET_DIAG UNSORTED_SEGMENT_SUM UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_PROD "
        "UNSORTED_SEGMENT_MIN"
    )
    four = "ONE_HOT SPARSE_TO_DENSE STRIDED_SLICE"
    groups = enumerate((one, two, three, four), 1)
    return {name: count for count, names in groups for name in names.split()}


@functools.cache
def _options() -> dict[str, str]:
    """The options of each operator that has some, as far as the names tell."""
    names = {
        n.removesuffix("OptionsT").lower(): n for n in dir(_schema()) if n.endswith("OptionsT")
    }
    special = {
        "average_pool_2d": "Pool2DOptionsT", "max_pool_2d": "Pool2DOptionsT",
        "l2_pool_2d": "Pool2DOptionsT", "mean": "ReducerOptionsT", "sum": "ReducerOptionsT",
        "reduce_prod": "ReducerOptionsT", "reduce_max": "ReducerOptionsT",
        "reduce_min": "ReducerOptionsT", "reduce_any": "ReducerOptionsT",
        "rnn": "RNNOptionsT", "maximum": "MaximumMinimumOptionsT", "split": "SplitOptionsT",
        "minimum": "MaximumMinimumOptionsT", "l2_normalization": "L2NormOptionsT",
        "random_uniform": "RandomOptionsT", "random_standard_normal": "RandomOptionsT",
        "multinomial": "RandomOptionsT", "topk_v2": "TopKV2OptionsT",
    }  # fmt: skip
    found = {}
    for operator in _operators():
        plain = operator.lower()
        name = special.get(plain) or names.get(plain.replace("_", ""))
        if name:
            found[operator] = name
    return found


def _value(old: Any, chance: Chance) -> Any:
    """Another value of an option's type."""
    if isinstance(old, bool):
        return chance.once_in(2)
    if isinstance(old, float):
        return chance.real()
    if isinstance(old, int):
        return chance.randrange(4) if not chance.once_in(4) else chance.whole(old)
    if old is None and chance.once_in(2):
        return [chance.randrange(-1, 5) for _ in range(chance.randrange(5))]
    return old


def _chosen_options(operator: str, chance: Chance) -> tuple[str, Any]:
    name = _options().get(operator)
    if chance.once_in(12):
        name = chance.choice(sorted(_options().values()))
    if name is None or chance.once_in(20):
        return "", None
    options = getattr(_schema(), name)()
    for field, old in vars(options).items():
        if not chance.once_in(3):
            setattr(options, field, _value(old, chance))
    return name.removesuffix("T"), options


class _Built:
    """A model that grows by one operator at a time."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.schema = _schema()
        self.graph = self.schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [], []
        self.buffers = [self.schema.BufferT()]
        self.codes: list[Any] = []
        self.names: list[str] = []

    def tensor(self, constant: bool, kind: str = "", dims: list[int] | None = None) -> int:
        chance = self.chance
        tensor = self.schema.TensorT()
        tensor.name = f"t{len(self.graph.tensors)}".encode()
        kind = kind or chance.choice(_TYPES if not chance.once_in(25) else _RARE_TYPES)
        tensor.type = getattr(self.schema.TensorType, kind)
        tensor.shape = chance.dims() if dims is None else dims
        if kind in ("INT8", "UINT8", "INT16") or chance.once_in(30):
            quantization = self.schema.QuantizationParametersT()
            count = 1 if not chance.once_in(6) else chance.randrange(5)
            quantization.scale = [chance.choice((0.1, 1.0, 0.0, 1e-9))] * count
            quantization.zeroPoint = [chance.choice((0, 1, -128, 300))] * count
            quantization.quantizedDimension = chance.choice((0, 0, 1, 9))
            tensor.quantization = quantization
        tensor.buffer = 0
        if constant:
            buffer = self.schema.BufferT()
            buffer.data = list(self._data(kind, tensor.shape))
            self.buffers.append(buffer)
            tensor.buffer = len(self.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _data(self, kind: str, dims: list[int]) -> bytes:
        chance, size = self.chance, _SIZES.get(kind, 4)
        count = 1
        for dim in dims:
            count *= dim
        count = min(count, _MAX_ELEMENTS)
        if chance.once_in(20):
            count = max(0, count + chance.choice((-1, 1)))
        top = 5 if not chance.once_in(4) else 100
        if size == 4 and kind == "INT32":
            return struct.pack(f"<{count}i", *(chance.randrange(-2, top) for _ in range(count)))
        return b"".join(
            struct.pack(_FORMATS[size], chance.randrange(-2, top)) for _ in range(count)
        )

    def operator(self) -> None:
        chance = self.chance
        name = chance.choice(_operators())
        self.names.append(name)
        code = self.schema.OperatorCodeT()
        number = getattr(self.schema.BuiltinOperator, name)
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        code.version = 1 if not chance.once_in(3) else chance.randrange(1, 8)
        self.codes.append(code)
        operator = self.schema.OperatorT()
        operator.opcodeIndex = len(self.codes) - 1
        alike = chance.choice(_TYPES), chance.dims()
        count = _inputs().get(name, 0)
        if not count or chance.once_in(10):
            count = chance.choice((1, 1, 2, 2, 3, 4, 5))
        operator.inputs = [self._input(alike) for _ in range(count)]
        kinds = [alike[0], "", "INT32", "BOOL"]
        operator.outputs = [
            self.tensor(False, chance.choice(kinds), alike[1] if chance.once_in(2) else None)
            for _ in range(chance.choice((1, 1, 1, 2, 3)))
        ]
        kind, options = _chosen_options(name, chance)
        if options is not None:
            second = getattr(self.schema.BuiltinOptions2, kind, None)
            if second is None:
                operator.builtinOptions = options
                operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind, 0)
            else:
                operator.builtinOptions2, operator.builtinOptions2Type = options, second
        self.graph.operators.append(operator)
        self.graph.outputs += operator.outputs

    def _input(self, alike: tuple[str, list[int]]) -> int:
        chance = self.chance
        kind = chance.randrange(12)
        if kind == 0:
            return -1
        if kind < 3 and self.graph.tensors:
            return chance.randrange(len(self.graph.tensors))
        if kind < 5:
            # What axes, shapes and paddings look like.
            return self.tensor(True, "INT32", [chance.randrange(1, 5)])
        constant = kind < 8
        same = not chance.once_in(3)
        index = self.tensor(constant, alike[0] if same else "", alike[1] if same else None)
        if not constant:
            self.graph.inputs.append(index)
        return index

    def packed(self) -> bytes:
        model = self.schema.ModelT()
        model.version, model.subgraphs = 3, [self.graph]
        model.operatorCodes, model.buffers = self.codes, self.buffers
        return _pack(model)


def _pack(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def built(chance: Chance) -> Trial:
    """A model built operator by operator."""
    while True:
        model = _Built(chance)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            model.operator()
        try:
            data = model.packed()
        except Exception:  # The packer has no place for some of the values.
            continue
        return Trial(_ENCODING, (data,), made="built " + " ".join(model.names))


@functools.cache
def _sound() -> list[bytes]:
    return [*canonical(_ENCODING), *written(networks.tflite)]


def _slots(item: Any, found: list[tuple[Any, Any]]) -> None:
    """Every field of the tables under ``item`` as its holder and its name, or index."""
    fields = enumerate(item) if isinstance(item, list) else vars(item).items()
    for key, value in list(fields):
        if hasattr(value, "tolist"):
            value = value.tolist()
            if len(value) <= 64:
                item[key] if isinstance(item, list) else setattr(item, key, value)
        found.append((item, key))
        if (isinstance(value, list) and len(value) <= 64) or hasattr(value, "__dict__"):
            _slots(value, found)


def _change(model: Any, chance: Chance) -> str:
    """Change one field. Returns its name."""
    slots: list[tuple[Any, Any]] = []
    _slots(model, slots)
    holder, key = chance.choice(slots)
    in_list = isinstance(holder, list)
    old = holder[key] if in_list else getattr(holder, key)
    new: Any = old
    if isinstance(old, (bool, float)):
        new = _value(old, chance)
    elif isinstance(old, int):
        new = chance.whole(old)
        if key in ("builtinCode", "deprecatedBuiltinCode"):
            new = getattr(_schema().BuiltinOperator, chance.choice(_operators()))
    elif isinstance(old, list):
        new = chance.some(old, len(old) + 2)
    elif old is None:
        new = chance.some(range(5), 4) if chance.once_in(2) else None
    elif hasattr(old, "__dict__"):
        new = None
    if in_list:
        holder[key] = new
    else:
        setattr(holder, key, new)
    return f"{type(holder).__name__}.{key}"


def mutated(chance: Chance) -> Trial:
    """A sound model with some of its fields changed."""
    schema, data = _schema(), chance.choice(_sound())
    if chance.once_in(6):
        return Trial(_ENCODING, (chance.flipped(data),), made="bytes changed")
    while True:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
        try:
            changed = [_change(model, chance) for _ in range(chance.randint(1, 4))]
            packed = _pack(model)
        except Exception:  # The packer has no place for some of the values.
            continue
        return Trial(_ENCODING, (packed,), made="changed " + " ".join(changed))


def make(chance: Chance) -> Trial:
    """A model: most are built, because these get furthest into the library."""
    return mutated(chance) if chance.once_in(4) else built(chance)
