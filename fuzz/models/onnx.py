"""ONNX: models built from the operators' own schemas, and mutated protobuf messages."""

from __future__ import annotations

import functools
from typing import Any

from authoring import networks
from fuzz.chance import Chance
from fuzz.models.seeds import canonical, written
from fuzz.trial import Trial

_ENCODING = "onnx"
_MAX_VALUES = 256
_DOMAINS = ("", "", "", "ai.onnx.ml")


@functools.cache
def _names() -> frozenset[str]:
    """The names of the element types."""
    import onnx

    return frozenset(onnx.TensorProto.DataType.keys())


@functools.cache
def _schemas() -> dict[str, list[Any]]:
    """The newest schema of each operator, by domain."""
    import onnx

    found: dict[str, list[Any]] = {"": [], "ai.onnx.ml": []}
    for schema in onnx.defs.get_all_schemas():
        if schema.domain in found and not schema.deprecated:
            found[schema.domain].append(schema)
    return found


def _element(text: str) -> int:
    """The number of the element type of ``tensor(float)``; 0 for what is not a tensor."""
    import onnx

    names = {"float": "FLOAT", "double": "DOUBLE", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}
    inner = text.removeprefix("tensor(").removesuffix(")")
    name = names.get(inner, inner.upper())
    return (
        int(onnx.TensorProto.DataType.Value(name))
        if text.startswith("tensor(") and (name in _names())
        else 0
    )


def _tensor(name: str, kind: int, dims: list[int], chance: Chance) -> Any:
    import onnx

    tensor = onnx.TensorProto(name=name, data_type=kind, dims=dims)
    count = 1
    for dim in dims:
        count *= dim
    count = min(count, _MAX_VALUES)
    if kind == onnx.TensorProto.STRING:
        tensor.string_data.extend(b"text" for _ in range(count))
    elif kind == onnx.TensorProto.FLOAT:
        tensor.float_data.extend(chance.real() for _ in range(count))
    elif kind == onnx.TensorProto.INT64:
        small = not chance.once_in(5)
        values = [chance.randrange(-2, 5) if small else chance.whole() for _ in range(count)]
        tensor.int64_data.extend(max(-(1 << 63), min(value, (1 << 63) - 1)) for value in values)
    else:
        tensor.raw_data = chance.randbytes(count * chance.choice((1, 2, 4, 8)))
    return tensor


def _attribute(name: str, like: Any, chance: Chance) -> Any:
    import onnx

    made = onnx.AttributeProto(name=name, type=int(like.type.value))
    kind = onnx.AttributeProto.AttributeType.Name(made.type)
    small = chance.randrange(4) if not chance.once_in(4) else chance.whole()
    small = max(-(1 << 63), min(small, (1 << 63) - 1))
    if kind == "INT":
        made.i = small
    elif kind == "FLOAT":
        made.f = chance.real()
    elif kind == "STRING":
        default = like.default_value.s.decode() if like.default_value.s else ""
        known = [default, "linear", "SAME_UPPER", "reflect", "i,j->ij", "nearest"]
        made.s = chance.choice(known).encode() or b"NOTSET"
    elif kind == "INTS":
        made.ints.extend(chance.randrange(-1, 5) for _ in range(chance.randrange(6)))
        if made.ints and chance.once_in(5):
            made.ints[0] = small
    elif kind == "FLOATS":
        made.floats.extend(chance.real() for _ in range(chance.randrange(6)))
    elif kind == "STRINGS":
        made.strings.extend(b"ab" for _ in range(chance.randrange(4)))
    elif kind == "TENSOR":
        types = (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64)
        made.t.CopyFrom(_tensor("", chance.choice(types), chance.dims(3), chance))
    else:
        return None
    return made


def built(chance: Chance) -> Trial:
    """A graph of a few operators with the numbers and types of inputs that they declare."""
    import onnx

    graph = onnx.GraphProto(name="g")
    made: list[str] = []
    names = []
    for step in range(chance.choice((1, 1, 1, 2, 3))):
        domain = chance.choice(_DOMAINS)
        schema = chance.choice(_schemas()[domain])
        names.append(schema.name)
        node = onnx.NodeProto(op_type=schema.name, domain=domain)
        types = {c.type_param_str: list(c.allowed_type_strs) for c in schema.type_constraints}
        usual = ["tensor(float)", "tensor(int64)"]
        kinds = {
            name: chance.choice([t for t in usual if t in all_] or all_)
            if not chance.once_in(4) else chance.choice(all_)
            for name, all_ in types.items() if all_
        }  # fmt: skip
        alike = chance.dims()
        most = min(schema.max_input, len(schema.inputs) + 2, 8)
        for position in range(chance.randint(min(schema.min_input, most), most)):
            formal = schema.inputs[min(position, len(schema.inputs) - 1)]
            kind = _element(kinds.get(formal.type_str, formal.type_str))
            if made and chance.once_in(3):
                node.input.append(chance.choice(made))
                continue
            name = f"i{step}_{position}"
            dims = alike if chance.once_in(2) else chance.dims()
            if chance.once_in(2) and kind:
                graph.initializer.append(_tensor(name, kind, dims, chance))
            elif kind:
                declared: list[Any] = ["n" if chance.once_in(6) else dim for dim in dims]
                info = onnx.helper.make_tensor_value_info(name, kind, declared)
                graph.input.append(info)
            else:
                name = ""
            node.input.append(name)
        least = max(schema.min_output, 1)
        for position in range(min(least + chance.randrange(2), max(schema.max_output, 1), 4)):
            name = f"o{step}_{position}"
            node.output.append(name)
            made.append(name)
            graph.output.append(onnx.ValueInfoProto(name=name))
        for key, like in schema.attributes.items():
            if like.required or chance.once_in(2):
                attribute = _attribute(key, like, chance)
                if attribute is not None:
                    node.attribute.append(attribute)
        graph.node.append(node)
    model = onnx.ModelProto(ir_version=10, graph=graph)
    model.opset_import.add(domain="", version=chance.choice((11, 13, 17, 18, 21, 21, 22)))
    model.opset_import.add(domain="ai.onnx.ml", version=chance.choice((3, 4, 5)))
    return Trial(_ENCODING, (model.SerializeToString(),), made="built " + " ".join(names))


@functools.cache
def _sound() -> list[bytes]:
    return [*canonical(_ENCODING), *written(networks.onnx)]


def _messages(message: Any, found: list[Any]) -> None:
    """The message and every one below it."""
    found.append(message)
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for item in value if not hasattr(value, "ListFields") else [value]:
                _messages(item, found)


def _changed(field: Any, old: Any, chance: Chance) -> Any:
    """Another value for a field of numbers, text or bytes."""
    if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
        if field.name == "op_type" and not chance.once_in(5):
            return chance.choice(_schemas()[""]).name
        if field.type == field.TYPE_STRING:
            return chance.text(old or "")
        return chance.flipped(old) if old else chance.randbytes(chance.randrange(64))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return chance.real()
    if field.type == field.TYPE_ENUM:
        return chance.choice(field.enum_type.values).number
    value = chance.whole(int(old or 0))
    bits = 31 if field.type == field.TYPE_INT32 else 63
    return max(-(1 << bits), min(value, (1 << bits) - 1))


def _change(model: Any, chance: Chance) -> str:
    """Change one field of one message. Returns its name."""
    messages: list[Any] = []
    _messages(model, messages)
    message = chance.choice(messages)
    field = chance.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    repeated = hasattr(value, "append") or hasattr(value, "add")
    if field.type == field.TYPE_MESSAGE:
        if repeated and len(value):
            if chance.once_in(2):
                value.add().MergeFromString(chance.choice(value).SerializeToString())
            else:
                del value[chance.randrange(len(value))]
        elif not repeated:
            same = [other for other in messages if other.DESCRIPTOR is field.message_type]
            if same and not message.HasField(field.name) and chance.once_in(2):
                # (A copy: a message that is put into itself grows without end.)
                value.MergeFromString(chance.choice(same).SerializeToString())
            else:
                message.ClearField(field.name)
    elif repeated:
        if len(value) and chance.once_in(2):
            at = chance.randrange(len(value))
            value[at] = _changed(field, value[at], chance)
        elif len(value) and chance.once_in(2):
            del value[chance.randrange(len(value))]
        else:
            value.append(_changed(field, None, chance))
    elif chance.once_in(10):
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _changed(field, value, chance))
    return f"{message.DESCRIPTOR.name}.{field.name}"


def mutated(chance: Chance) -> Trial:
    """A sound model with some of its fields changed."""
    import onnx

    data = chance.choice(_sound())
    if chance.once_in(6):
        return Trial(_ENCODING, (chance.flipped(data),), made="bytes changed")
    while True:
        model = onnx.ModelProto.FromString(data)
        try:
            changed = [_change(model, chance) for _ in range(chance.randint(1, 4))]
            packed = model.SerializeToString()
        except (UnicodeError, ValueError, TypeError):  # The message refuses the value.
            continue
        return Trial(_ENCODING, (packed,), made="changed " + " ".join(changed))


def make(chance: Chance) -> Trial:
    """A built or a mutated model."""
    return built(chance) if chance.once_in(2) else mutated(chance)
