"""OpenVINO IR: operators over parameters and constants, and mutated XML."""

from __future__ import annotations

import copy
import functools
import struct
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from authoring import networks
from fuzz.chance import Chance
from fuzz.models.seeds import canonical_parts, written
from fuzz.trial import Trial

_ENCODING = "openvino"
_OPSETS = range(1, 17)
_PRECISIONS = ("FP32", "FP32", "FP32", "I64", "I32", "U8", "FP16", "BOOL", "I8", "BF16", "FP64")
_ELEMENTS = {
    "FP32": "f32",
    "I64": "i64",
    "I32": "i32",
    "U8": "u8",
    "FP16": "f16",
    "BOOL": "boolean",
    "I8": "i8",
    "BF16": "bf16",
    "FP64": "f64",
}
_SIZES = {
    "f32": 4,
    "i64": 8,
    "i32": 4,
    "u8": 1,
    "f16": 2,
    "boolean": 1,
    "i8": 1,
    "bf16": 2,
    "f64": 8,
}
#: Attributes of all operators, with values that some of them accept.
_ATTRIBUTES = {
    **dict.fromkeys(
        ("strides", "dilations", "kernel"), ("1,1", "2,2", "1", "0,0", "1,1,1", "-1,1")
    ),
    **dict.fromkeys(
        ("pads_begin", "pads_end", "output_padding"), ("0,0", "1,1", "0", "-1,-1", "9,9")
    ),
    "auto_pad": ("explicit", "same_upper", "same_lower", "valid"),
    "rounding_type": ("floor", "ceil", "ceil_torch"),
    **dict.fromkeys(
        ("axis", "axes", "batch_dims", "batch_axis", "seq_axis", "block_size", "group", "levels"),
        ("0", "1", "-1", "2", "9", "4"),
    ),
    **dict.fromkeys(
        (
            "keep_dims",
            "transpose_a",
            "transpose_b",
            "special_zero",
            "exclude-pad",
            "across_channels",
            "normalize_variance",
            "exclusive",
            "reverse",
            "align_corners",
            "antialias",
            "sorted",
            "sort_result_descending",
            "with_right_bound",
            "do_softmax",
            "linear_before_reset",
            "cells",
        ),
        ("true", "false"),
    ),
    "mode": (
        "max",
        "min",
        "nearest",
        "linear",
        "cubic",
        "blocks_first",
        "depth_first",
        "bidirectional",
        "constant",
        "sum",
        "half_pixel_centers",
        "numpy",
        "reflect",
        "avg",
    ),
    "sort": ("value", "index", "none"),
    **dict.fromkeys(
        (
            "index_element_type",
            "output_type",
            "destination_type",
            "convert_type",
            "classes_index_type",
            "sequence_lengths_type",
        ),
        ("i32", "i64", "f32", "u4", "boolean"),
    ),
    "auto_broadcast": ("numpy", "none", "pdpd"),
    **dict.fromkeys(
        ("eps", "alpha", "beta", "bias", "clip", "min", "max", "spatial_scale"),
        ("0", "1", "0.5", "-1", "1e30", "nan"),
    ),
    **dict.fromkeys(
        (
            "size",
            "hidden_size",
            "pooled_h",
            "pooled_w",
            "num_splits",
            "group_size",
            "output_dim",
            "sampling_ratio",
            "num_classes",
            "classes",
            "coords",
            "num",
        ),
        ("1", "2", "4", "0", "-1", "3"),
    ),
    "direction": ("forward", "reverse", "bidirectional"),
    "shape": ("1,4", "2,2", "-1", "0"),
    **dict.fromkeys(("activations",), ("sigmoid,tanh,tanh", "tanh")),
    **dict.fromkeys(
        ("begin_mask", "end_mask", "new_axis_mask", "shrink_axis_mask", "ellipsis_mask"),
        ("0", "1", "1,1", "0,1,0", ""),
    ),
    "equation": ("ij,jk->ik", "i->i", "ii", "ij->ji"),
    "coordinate_transformation_mode": ("half_pixel", "asymmetric", "align_corners"),
    "nearest_mode": ("floor", "ceil", "simple"),
    "shape_calculation_mode": ("sizes", "scales"),
    "box_encoding": ("corner", "center"),
    "variable_id": ("a", "b"),
    "reduction": ("none", "sum", "prod", "mean"),
}


@functools.cache
def _types() -> list[tuple[str, str]]:
    """The operators that OpenVINO has, with their opset."""
    import importlib

    found = []
    for number in _OPSETS:
        module = importlib.import_module(f"openvino.opset{number}")
        for name in dir(module):
            if not name.startswith("_") and callable(getattr(module, name)):
                camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
                found.append((camel, f"opset{number}"))
    # What Python's names do not tell.
    odd = (
        "MatMul GRUCell GRUSequence LSTMCell LSTMSequence RNNCell ROIPooling ROIAlign TopK SoftMax"
    )
    odd += " PReLU ReLU GRN LRN MVN NormalizeL2 RegionYolo ReorgYolo PSROIPooling CTCLoss Einsum"
    odd += " ReadValue Assign TensorIterator Loop If DFT IDFT RDFT IRDFT NMSRotated GridSample"
    found += [(name, f"opset{number}") for name in odd.split() for number in (1, 3, 6, 9, 13)]
    return sorted(found)


def _port(parent: Element, number: int, dims: list[int], precision: str) -> None:
    port = SubElement(parent, "port", id=str(number), precision=precision)
    for dim in dims:
        SubElement(port, "dim").text = str(dim)


def built(chance: Chance) -> Trial:
    """A graph of a few operators. Each has the attributes of all, since it reads only its own."""
    net = Element("net", name="g", version="11")
    layers, edges = SubElement(net, "layers"), SubElement(net, "edges")
    weights = bytearray()
    sources: list[tuple[int, int, list[int], str]] = []
    names: list[str] = []

    def layer(kind: str, version: str) -> Element:
        number = len(layers)
        return SubElement(
            layers, "layer", id=str(number), name=f"l{number}", type=kind, version=version
        )

    def source(precision: str, dims: list[int]) -> tuple[int, int, list[int], str]:
        element = _ELEMENTS[precision]
        shape = ",".join(map(str, dims))
        constant = chance.once_in(2)
        made = layer("Const" if constant else "Parameter", "opset1")
        data = SubElement(made, "data", shape=shape, element_type=element)
        if constant:
            count = 1
            for dim in dims:
                count *= dim
            size = min(count, 4096) * _SIZES[element]
            data.set("offset", str(len(weights)))
            data.set("size", str(size if not chance.once_in(20) else chance.whole(size)))
            if element in ("i64", "i32"):
                form = "<q" if element == "i64" else "<i"
                for _ in range(size // _SIZES[element]):
                    weights.extend(struct.pack(form, chance.randrange(-2, 5)))
            else:
                weights.extend(struct.pack("<f", chance.uniform(-2, 2)) * (size // 4 + 1))
        _port(SubElement(made, "output"), 0, dims, precision)
        return len(layers) - 1, 0, dims, precision

    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        kind, version = chance.choice(_types())
        names.append(f"{kind}/{version}")
        alike, precision = chance.dims(), chance.choice(_PRECISIONS)
        inputs = []
        for _ in range(chance.choice((1, 1, 2, 2, 3, 4, 5))):
            choice = chance.randrange(6)
            if choice == 0 and sources:
                inputs.append(chance.choice(sources))
            elif choice == 1:
                inputs.append(source("I64", [chance.randrange(1, 4)]))
            elif choice == 2:
                inputs.append(source(chance.choice(_PRECISIONS), chance.dims()))
            else:
                inputs.append(source(precision, alike))
        operator = layer(kind, version)
        number = len(layers) - 1
        data = SubElement(operator, "data")
        for name, values in _ATTRIBUTES.items():
            if not chance.once_in(15):
                value = chance.choice(values)
                data.set(name, value if not chance.once_in(25) else str(chance.whole()))
        ports = SubElement(operator, "input")
        for position, (from_layer, from_port, dims, kept) in enumerate(inputs):
            _port(ports, position, dims, kept)
            SubElement(
                edges,
                "edge",
                {
                    "from-layer": str(from_layer),
                    "from-port": str(from_port),
                    "to-layer": str(number),
                    "to-port": str(position),
                },
            )
        outputs = SubElement(operator, "output")
        for position in range(chance.choice((1, 1, 1, 1, 1, 1, 1, 2))):
            port = len(inputs) + position
            _port(outputs, port, alike, precision)
            sources.append((number, port, alike, precision))
            result = layer("Result", "opset1")
            _port(SubElement(result, "input"), 0, alike, precision)
            SubElement(
                edges,
                "edge",
                {
                    "from-layer": str(number),
                    "from-port": str(port),
                    "to-layer": str(len(layers) - 1),
                    "to-port": "0",
                },
            )
    return Trial(_ENCODING, (_text(net), bytes(weights)), made="built " + " ".join(names))


def _text(net: Element) -> bytes:
    return b'<?xml version="1.0"?>\n' + ElementTree.tostring(net)


@functools.cache
def _sound() -> list[tuple[bytes, ...]]:
    xml, weights = written(networks.openvino)
    return [*canonical_parts(_ENCODING), (xml, weights), (xml, weights)]


def _change(net: Element, chance: Chance) -> str:
    """Change one element. Returns its name and what was changed."""
    elements = [(parent, child) for parent in net.iter() for child in parent]
    parent, element = chance.choice(elements)
    kind = chance.randrange(6)
    layers = list(net.iter("layer"))
    if kind == 0 and layers:
        swapped = chance.choice(layers)
        swapped.set("type", chance.choice(_types())[0])
        if chance.once_in(2):
            swapped.set("version", f"opset{chance.choice(_OPSETS)}")
        return f"type {swapped.get('type')}"
    if kind == 1:
        parent.remove(element)
        return f"{element.tag} removed"
    if kind == 2:
        # (A copy: an element within itself has no end.)
        another = copy.deepcopy(chance.choice(elements)[1])
        parent.insert(chance.randrange(len(parent) + 1), another)
        return f"{parent.tag} put in"
    if element.attrib and kind != 3:
        name = chance.choice(sorted(element.attrib))
        old = element.attrib[name]
        digits = old.lstrip("-").isdigit()
        new = str(chance.whole(int(old))) if digits and not chance.once_in(4) else chance.text(old)
        if name in ("precision", "element_type") and not chance.once_in(4):
            pool = _PRECISIONS if name == "precision" else sorted(_SIZES)
            new = chance.choice(pool)
        element.set(name, new)
        return f"{element.tag}@{name}"
    if kind == 3 and element.tag in ("data", "layer"):
        name = chance.choice(sorted(_ATTRIBUTES))
        element.set(name, chance.choice(_ATTRIBUTES[name]))
        return f"{element.tag}@{name} added"
    element.text = str(
        chance.whole(int(element.text or 0) if (element.text or "").isdigit() else 0)
    )
    return f"{element.tag} text"


def mutated(chance: Chance) -> Trial:
    """A sound IR with some elements of its XML changed, or some bytes of a file."""
    xml, *rest = chance.choice(_sound())
    weights = rest[0] if rest else b""
    if chance.once_in(6):
        return Trial(_ENCODING, (chance.flipped(xml), weights), made="bytes changed")
    if chance.once_in(8):
        weights = chance.flipped(weights)
    net = ElementTree.fromstring(xml)
    changed = [_change(net, chance) for _ in range(chance.randint(1, 3))]
    try:
        text = _text(net)
    except ValueError:
        text = chance.flipped(xml)
    return Trial(_ENCODING, (text, weights), made="changed " + ", ".join(changed))


def make(chance: Chance) -> Trial:
    """A built or a mutated model."""
    return built(chance) if chance.once_in(2) else mutated(chance)
