"""Recognise texts that were given instead of a model or guest: server errors, pointers, sources."""

from __future__ import annotations

import codecs
import re

from wasi_nn._models.recognition.pickles import pickled
from wasi_nn._models.recognition.sample import BY_OPENVINO, GIVE, NO_BACKEND, Look, Sample

_CHECK = "check the address, the name and the login, and download it again"
_AGAIN = f"a server gave it as its answer: {_CHECK}"
_PERHAPS = f"a server may have given it as its answer: {_CHECK}"
_ONLY_WASM = "only WebAssembly runs here: compile a program to .wasm"
# A text that may be a server's answer has at most this many bytes.
_SHORT = 1024
_QUOTED = 60
_BLANKS = "\t\n\r\f\v\x1b"

_BEFORE_MARKUP = r"\s*(?:(?:<\?.*?\?>|<!--.*?-->)\s*)*"
_HTML = re.compile(
    _BEFORE_MARKUP + r"<(?:!doctype\s+html|html|head|body|title|meta|script|style|link|div|h1|p|"
    r"center|pre|a|br)\b",
    re.IGNORECASE | re.DOTALL,
)
_XML = re.compile(
    _BEFORE_MARKUP + r"(?:<!doctype[^>]*>\s*)?<([a-z_][\w:.-]*)", re.IGNORECASE | re.DOTALL
)
_XML_CODE = re.compile(r"<(?:\w+:)?(?:code|message|faultstring)>\s*([^<]{1,120})", re.IGNORECASE)
_XML_ERROR = re.compile(r"error|fault|exception|problem|listbucket", re.IGNORECASE)
_ERROR_KEY = r'"(?:errors?|detail|message|status|statusCode|code|error_\w+)"\s*:'
_JSON_ERROR, _JSON_BEGINS = re.compile(_ERROR_KEY), re.compile(r"[\[{\s]*" + _ERROR_KEY)
#: Keys that tell what a JSON text is for.
_JSON_KEYS: tuple[tuple[str, Look], ...] = (
    (
        "peft_type",
        Look("a LoRA adapter's config", "merge it into its model, and convert that"),
    ),
    (
        "weight_map",
        Look("the index of a safetensors model", "export the model to ONNX, or convert it to GGUF"),
    ),
    (
        "weightsManifest",
        Look("a TensorFlow.js model", "convert the model that it was made from to TFLite"),
    ),
    ("model_type", Look("the config of a Hugging Face model")),
    ("architectures", Look("the config of a Hugging Face model")),
    ("added_tokens", Look("a tokenizer of Hugging Face")),
    ("schemaVersion", Look("an image's manifest (OCI, Ollama)", "name the layer with the model")),
    ("learner", Look("an XGBoost model", "convert it to ONNX with onnxmltools")),
    ("fileFormatVersion", Look("the manifest of a Core ML package", NO_BACKEND)),
)
_ANNEX = re.compile(r"(?:[\w./\\-]*[/\\])?annex[/\\]objects[/\\]")
_WAT = re.compile(r"(?:;;[^\n]*(?:\n|$)|\(;.*?;\)|\s)*\(\s*(module|component)\b", re.DOTALL)
_WIT = re.compile(
    r"(?:///?[^\n]*\n|\s)*(?:package\s+[\w-]+:[\w-]+|(?:world|interface)\s+[\w-]+\s*{)"
)
# Protocols 0 and 1 of pickle are texts.
_PICKLE = re.compile(r"(?:\(?[dl]p\d*\n|c[A-Za-z_][\w.]*\n[A-Za-z_]\w*\n|\(i[A-Za-z_][\w.]*\n)")

#: What begins a text, and what such a text is.
_STARTS: tuple[tuple[str, Look], ...] = (
    (
        "version https://git-lfs.github.com/spec/",
        Look(
            "a git-lfs pointer, which only names the file",
            "run `git lfs pull` in its repository, or download the file itself",
            stands_in=True,
        ),
    ),
    (
        "version https://hawser.github.com/spec/",
        Look(
            "an old git-lfs pointer, which only names the file",
            "run `git lfs pull` in its repository, or download the file itself",
            stands_in=True,
        ),
    ),
    (
        "# xet version",
        Look(
            "a git-xet pointer, which only names the file",
            "get it with git-xet, or download the file itself",
            stands_in=True,
        ),
    ),
    (
        "outs:\n- ",
        Look("a pointer of DVC", "run `dvc pull`, and name what it stands for", stands_in=True),
    ),
    (
        "[InternetShortcut]",
        Look("a shortcut to a web page", "download what it leads to", stands_in=True),
    ),
    ("#!", Look("a script", "", _ONLY_WASM)),
    ("tree\nversion=", Look("a LightGBM model", "convert it to ONNX with onnxmltools")),
    ("7767517\n", Look("the layers of an ncnn model", NO_BACKEND)),
    ("[net]\n", Look("a Darknet model's layers", NO_BACKEND)),
    ("ir_version:", Look("an ONNX model as a text", "save it as a binary: onnx.save(model, PATH)")),
    ("node {", Look("a TensorFlow graph as a text (.pbtxt)", BY_OPENVINO)),
    ("saved_model_schema_version:", Look("a TensorFlow SavedModel as a text", BY_OPENVINO)),
    ("FROM ", Look("a Modelfile or Dockerfile", "name the GGUF file that its FROM stands for")),
)


def recognise(sample: Sample) -> Look | None:
    """Recognise a text. None for anything else."""
    text = _decoded(sample)
    if text is None:
        return None
    bare = text.lstrip("\ufeff \t\r\n\f\v\0")
    unix = bare.replace("\r\n", "\n")
    for start, look in _STARTS:
        if unix.startswith(start):
            return look
    if _ANNEX.match(unix):
        return Look(
            "a git-annex pointer, which only names the file",
            "run `git annex get` in its repository",
            stands_in=True,
        )
    if _HTML.match(bare):
        return _answer("an HTML page")
    if bare.startswith("<"):
        return _xml(bare)
    if bare.startswith(("{", "[")):
        return _json(bare, sample)
    return _source(unix) or _plain(bare, sample)


def _answer(what: str, certain: bool = True) -> Look:
    advice = _AGAIN if certain else _PERHAPS
    return Look(what, advice, stands_in=True, certain=certain)


def _decoded(sample: Sample) -> str | None:
    head = sample.head
    wide = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(head[:2])
    # The last character of a longer text may be cut off.
    decoder = codecs.getincrementaldecoder(wide or "utf-8")()
    try:
        text = decoder.decode(head[2:] if wide else head, final=len(head) == sample.size)
    except UnicodeDecodeError:
        return None
    if not text or any(letter < " " and letter not in _BLANKS for letter in text):
        return None
    return text


def _xml(text: str) -> Look:
    found = _XML.match(text)
    root = found[1] if found else ""
    name = root.rpartition(":")[2]
    if name.lower() == "html":
        return _answer("an HTML page")
    if name == "net":
        return Look("an OpenVINO model (.xml)", "name its encoding, openvino", GIVE)
    if _XML_ERROR.search(name):
        code = _XML_CODE.search(text)
        return _answer(f"a server's error in XML{f' ({_quote(code[1])})' if code else ''}")
    if name == "plist":
        return Look("a property list (.plist)")
    return Look(f"an XML text (<{root[:_QUOTED]}>)")


def _json(text: str, sample: Sample) -> Look:
    for key, look in _JSON_KEYS:
        if f'"{key}"' in text:
            return look
    error = _JSON_ERROR.search(text) if sample.size <= _SHORT else _JSON_BEGINS.match(text)
    if error is not None:
        return _answer(f"a server's error in JSON, {_quote(text)}", certain=False)
    return Look("a JSON text")


def _source(text: str) -> Look | None:
    if found := _WAT.match(text):
        tool = "wat2wasm or wasm-tools parse" if found[1] == "module" else "wasm-tools parse"
        return Look(
            "WebAssembly in the text format (.wat)",
            "",
            f"make a binary of it with {tool}",
        )
    if _WIT.match(text):
        return Look("an interface in WIT", "", "give a component that has it")
    return pickled(text.encode()) if _PICKLE.match(text) else None


def _plain(text: str, sample: Sample) -> Look:
    if not text:
        return _answer("a text of blanks only", certain=False)
    if sample.size <= _SHORT:
        return _answer(f"a short text, {_quote(text)}", certain=False)
    return Look(f"a text that begins with {_quote(text)}")


def _quote(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= _QUOTED else line[:_QUOTED] + "…")
