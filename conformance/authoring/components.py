"""Components as text: the lowered imports of `wasi:nn` around a test's own `run`.

A `run` is WAT that calls the lowered functions and leaves 0 (ok) or 1 (error). The memory has at
least one page, and `cabi_realloc` never frees. A test's data begins at 1024, and results begin at
64.
"""

from __future__ import annotations

_CODES = (
    "invalid-argument invalid-encoding timeout runtime-error unsupported-operation too-large "
    "not-found security unknown"
)
_TYPES = "FP16 FP32 FP64 BF16 U8 I32 I64"
_ENCODINGS = "openvino onnx tensorflow pytorch tensorflowlite ggml autodetect"


def _enum(words: str) -> str:
    return "(enum " + " ".join(f'"{word}"' for word in words.split()) + ")"


def component(
    run: str, version: str = "0.2.0-rc-2024-10-28", data: str = "", more: str = ""
) -> str:
    """The text of a component whose `wasi:cli/run` is ``run``. ``data`` goes to address 1024, and
    ``more`` goes among the imports."""
    at = f"@{version}" if version else ""
    named = version == "0.2.0-rc-2024-10-28"
    constructor = version in ("0.2.0-rc-2024-06-25", "")
    methods = (
        """(export "[method]graph-execution-context.compute" (func (param "self" (borrow $context))
             (param "inputs" (list (tuple string (own $tensor))))
             (result (result (list (tuple string (own $tensor))) (error (own $error))))))"""
        if named
        else """(export "[method]graph-execution-context.set-input" (func
             (param "self" (borrow $context)) (param "name" string) (param "tensor" (own $tensor))
             (result (result (error (own $error))))))
           (export "[method]graph-execution-context.compute" (func
             (param "self" (borrow $context)) (result (result (error (own $error))))))
           (export "[method]graph-execution-context.get-output" (func
             (param "self" (borrow $context)) (param "name" string)
             (result (result (own $tensor) (error (own $error))))))"""
    )
    imported = {
        "tensor": ("tensor", "[constructor]tensor", "i32 i32 i32 i32 i32", "i32"),
        "dimensions": ("tensor", "[method]tensor.dimensions", "i32 i32", ""),
        "type": ("tensor", "[method]tensor.ty", "i32", "i32"),
        "data": ("tensor", "[method]tensor.data", "i32 i32", ""),
        "load": ("graph", "load", "i32 i32 i32 i32 i32", ""),
        "load_by_name": ("graph", "load-by-name", "i32 i32 i32", ""),
        "init": ("graph", "[method]graph.init-execution-context", "i32 i32", ""),
        "code": ("errors", "[method]error.code", "i32", "i32"),
        "reason": ("errors", "[method]error.data", "i32 i32", ""),
    }
    context = "[method]graph-execution-context"
    if named:
        imported["compute"] = ("inference", f"{context}.compute", "i32 i32 i32 i32", "")
    else:
        imported["set_input"] = ("inference", f"{context}.set-input", "i32 i32 i32 i32 i32", "")
        imported["compute"] = ("inference", f"{context}.compute", "i32 i32", "")
        imported["get_output"] = ("inference", f"{context}.get-output", "i32 i32 i32 i32", "")
    if constructor:
        imported["error"] = ("errors", "[constructor]error", "i32 i32 i32", "i32")
    lowered = "\n".join(
        f'(alias export ${interface} "{name}" (func $host_{key}))'
        f"(core func ${key} (canon lower (func $host_{key}) (memory $bytes) (realloc $realloc)))"
        for key, (interface, name, _, _) in imported.items()
    )
    drops = {"error": "errors", "tensor": "tensor", "context": "inference", "graph": "graph"}
    lowered += "".join(f"(core func $drop_{k} (canon resource.drop ${k}))\n" for k in drops)
    exports = "".join(f'(export "{key}" (func ${key}))' for key in imported)
    exports += "".join(f'(export "drop_{k}" (func $drop_{k}))' for k in drops)
    core = "".join(
        f'(import "nn" "{key}" (func ${key} (param {parameters}) (result {result})))\n'
        for key, (_, _, parameters, result) in imported.items()
    )
    core += "".join(f'(import "nn" "drop_{k}" (func $drop_{k} (param i32)))\n' for k in drops)
    constructed = (
        """(export "[constructor]error" (func (param "code" $code) (param "data" string)
          (result (own $error))))"""
        if constructor
        else ""
    )
    return f"""(component
  (import "wasi:nn/errors{at}" (instance $errors
    (type $c {_enum(_CODES)}) (export "error-code" (type $code (eq $c)))
    (export "error" (type $error (sub resource)))
    {constructed}
    (export "[method]error.code" (func (param "self" (borrow $error)) (result $code)))
    (export "[method]error.data" (func (param "self" (borrow $error)) (result string)))))
  (alias export $errors "error" (type $error))
  (import "wasi:nn/tensor{at}" (instance $tensor
    (type $t {_enum(_TYPES)}) (export "tensor-type" (type $type (eq $t)))
    (export "tensor" (type $tensor (sub resource)))
    (export "[constructor]tensor" (func (param "dimensions" (list u32)) (param "ty" $type)
      (param "data" (list u8)) (result (own $tensor))))
    (export "[method]tensor.dimensions" (func (param "self" (borrow $tensor)) (result (list u32))))
    (export "[method]tensor.ty" (func (param "self" (borrow $tensor)) (result $type)))
    (export "[method]tensor.data" (func (param "self" (borrow $tensor)) (result (list u8))))))
  (alias export $tensor "tensor" (type $tensor))
  (import "wasi:nn/inference{at}" (instance $inference
    (alias outer 1 $error (type $e)) (export "error" (type $error (eq $e)))
    (alias outer 1 $tensor (type $t)) (export "tensor" (type $tensor (eq $t)))
    (export "graph-execution-context" (type $context (sub resource)))
    {methods}))
  (alias export $inference "graph-execution-context" (type $context))
  (import "wasi:nn/graph{at}" (instance $graph
    (alias outer 1 $error (type $e)) (export "error" (type $error (eq $e)))
    (alias outer 1 $context (type $x)) (export "graph-execution-context" (type $context (eq $x)))
    (type $g {_enum(_ENCODINGS)}) (export "graph-encoding" (type $encoding (eq $g)))
    (type $d (enum "cpu" "gpu" "tpu")) (export "execution-target" (type $target (eq $d)))
    (export "graph" (type $graph (sub resource)))
    (export "[method]graph.init-execution-context" (func (param "self" (borrow $graph))
      (result (result (own $context) (error (own $error))))))
    (export "load" (func (param "builder" (list (list u8))) (param "encoding" $encoding)
      (param "target" $target) (result (result (own $graph) (error (own $error))))))
    (export "load-by-name" (func (param "name" string)
      (result (result (own $graph) (error (own $error))))))))
  (alias export $graph "graph" (type $graph))
  {more}
  (core module $memory
    (memory (export "memory") 40)
    (global $free (mut i32) (i32.const 65536))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (global.get $free))
      (global.set $free (i32.and (i32.add (i32.add (local.get $at) (local.get 3)) (i32.const 7))
        (i32.const -8)))
      (local.get $at)))
  (core instance $libc (instantiate $memory))
  (alias core export $libc "memory" (core memory $bytes))
  (alias core export $libc "cabi_realloc" (core func $realloc))
  {lowered}
  (core module $main
    (import "libc" "memory" (memory 1))
    {core}
    (data (i32.const 1024) "{data}")
    (func (export "run") (result i32) {run}))
  (core instance $main (instantiate $main (with "libc" (instance $libc))
    (with "nn" (instance {exports}))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))"""
