"""Write TensorFlow Lite models with the flatbuffer schema from LiteRT's package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_TYPES = {
    "float32": "FLOAT32",
    "float16": "FLOAT16",
    "bfloat16": "BFLOAT16",
    "int4": "INT4",
    "int32": "INT32",
    "uint8": "UINT8",
    "int8": "INT8",
    "int64": "INT64",
    "bool": "BOOL",
    "string": "STRING",
    "complex64": "COMPLEX64",
}


class FlatModel:
    """A model of one or more subgraphs, written operator by operator."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema: Any = schema
        self._graphs: list[Any] = []
        self._signatures: list[Any] = []
        self._begin()
        self._buffers = [schema.BufferT()]
        self._codes: list[Any] = []

    def tensor(
        self,
        name: str,
        dims: Sequence[int],
        element: str = "float32",
        signature: Sequence[int] | None = None,
        scale: float | None = None,
        zero_point: int = 0,
    ) -> int:
        """Add a computed tensor. -1 in ``signature`` makes a dimension dynamic."""
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape = name.encode(), list(dims)
        tensor.shapeSignature = None if signature is None else list(signature)
        tensor.type = getattr(self._schema.TensorType, _TYPES[element])
        tensor.buffer = 0
        if scale is not None:
            quantization = self._schema.QuantizationParametersT()
            quantization.scale, quantization.zeroPoint = [scale], [zero_point]
            tensor.quantization = quantization
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def constant(self, name: str, array: Any) -> int:
        """Add a constant tensor."""
        index = self.tensor(name, array.shape, array.dtype.name)
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self._buffers.append(buffer)
        self._graph.tensors[index].buffer = len(self._buffers) - 1
        return index

    def operator(self, name: str, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Add a built-in operator, with the options that the networks here need."""
        schema = self._schema
        code = schema.OperatorCodeT()
        number = getattr(schema.BuiltinOperator, name)
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        self._codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self._codes) - 1
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        options = self._options(name)
        if options is not None:
            operator.builtinOptions = options
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        self._graph.operators.append(operator)

    def _options(self, name: str) -> Any:
        schema = self._schema
        if name == "CONV_2D":
            options = schema.Conv2DOptionsT()
            options.strideW = options.strideH = 2
            options.dilationWFactor = options.dilationHFactor = 1
            options.padding = schema.Padding.VALID
            options.fusedActivationFunction = schema.ActivationFunctionType.RELU
            return options
        if name == "SOFTMAX":
            options = schema.SoftmaxOptionsT()
            options.beta = 1.0
            return options
        if name == "CONCATENATION":
            return schema.ConcatenationOptionsT()
        plain = {
            "TRANSPOSE": "TransposeOptionsT",
            "PAD": "PadOptionsT",
            "MEAN": "ReducerOptionsT",
            "FULLY_CONNECTED": "FullyConnectedOptionsT",
            "ADD": "AddOptionsT",
            "SUB": "SubOptionsT",
            "RESHAPE": "ReshapeOptionsT",
            "TILE": "TileOptionsT",
        }
        return getattr(schema, plain[name])() if name in plain else None

    def _begin(self) -> None:
        self._graph = self._schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._graphs.append(self._graph)

    def another(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """End this subgraph and begin another one."""
        self._graph.inputs, self._graph.outputs = list(inputs), list(outputs)
        self._begin()

    def sign(self, name: str, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        """Give this subgraph a signature."""
        signature = self._schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = name.encode(), len(self._graphs) - 1
        signature.inputs, signature.outputs = (
            [self._named(*item) for item in tensors.items()] for tensors in (inputs, outputs)
        )
        self._signatures.append(signature)

    def _named(self, name: str, tensor: int) -> Any:
        entry = self._schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), tensor
        return entry

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The model's bytes."""
        import flatbuffers

        self._graph.inputs, self._graph.outputs = list(inputs), list(outputs)
        model = self._schema.ModelT()
        model.version, model.subgraphs = 3, self._graphs
        model.signatureDefs = self._signatures or None
        model.operatorCodes, model.buffers = self._codes, self._buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
