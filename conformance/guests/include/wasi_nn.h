/* The core-module ABI `wasi_ephemeral_nn` of the specification (witx, since August 2023).
 *
 * Every function gives an nn_errno; results go through the out-pointers, and only on success (but
 * for the needed size of an output that does not fit its buffer). */
#ifndef WASI_NN_H
#define WASI_NN_H

#include <stddef.h>
#include <stdint.h>

typedef uint32_t nn_graph;
typedef uint32_t nn_context;
typedef int32_t nn_errno;

enum {
    NN_SUCCESS = 0,
    NN_INVALID_ARGUMENT = 1,
    NN_INVALID_ENCODING = 2,
    NN_MISSING_MEMORY = 3,
    NN_BUSY = 4,
    NN_RUNTIME_ERROR = 5,
    NN_UNSUPPORTED_OPERATION = 6,
    NN_TOO_LARGE = 7,
    NN_NOT_FOUND = 8,
    /* WasmEdge's, for language models. */
    NN_END_OF_SEQUENCE = 100,
    NN_CONTEXT_FULL = 101,
    NN_PROMPT_TOO_LONG = 102,
    NN_MODEL_NOT_FOUND = 103,
};

enum { NN_F16 = 0, NN_F32 = 1, NN_F64 = 2, NN_U8 = 3, NN_I32 = 4, NN_I64 = 5 };

enum {
    NN_OPENVINO = 0,
    NN_ONNX = 1,
    NN_TENSORFLOW = 2,
    NN_PYTORCH = 3,
    NN_TENSORFLOWLITE = 4,
    NN_AUTODETECT = 5,
    NN_GGML = 6, /* WasmEdge's number; the witx has none. */
};

enum { NN_CPU = 0, NN_GPU = 1, NN_TPU = 2, NN_AUTO = 3 };

typedef struct {
    const void *data;
    uint32_t length;
} nn_graph_builder;

typedef struct {
    const uint32_t *dimensions;
    uint32_t rank;
    uint8_t type; /* Hosts read this one byte; the padding behind it means nothing. */
    const void *data;
    uint32_t length; /* in bytes */
} nn_tensor;

_Static_assert(sizeof(nn_tensor) == 20, "the ABI's tensor takes 20 bytes");

#define NN_IMPORT(name) __attribute__((import_module("wasi_ephemeral_nn"), import_name(name)))

NN_IMPORT("load")
nn_errno nn_load(const nn_graph_builder *builders, uint32_t count, uint32_t encoding,
                 uint32_t target, nn_graph *graph);
NN_IMPORT("load_by_name")
nn_errno nn_load_by_name(const char *name, uint32_t length, nn_graph *graph);
NN_IMPORT("init_execution_context")
nn_errno nn_init_execution_context(nn_graph graph, nn_context *context);
NN_IMPORT("set_input")
nn_errno nn_set_input(nn_context context, uint32_t index, const nn_tensor *tensor);
NN_IMPORT("compute")
nn_errno nn_compute(nn_context context);
NN_IMPORT("get_output")
nn_errno nn_get_output(nn_context context, uint32_t index, void *buffer, uint32_t size,
                       uint32_t *written);

static inline const char *nn_errno_name(nn_errno code) {
    switch (code) {
    case NN_SUCCESS: return "success";
    case NN_INVALID_ARGUMENT: return "invalid_argument";
    case NN_INVALID_ENCODING: return "invalid_encoding";
    case NN_MISSING_MEMORY: return "missing_memory";
    case NN_BUSY: return "busy";
    case NN_RUNTIME_ERROR: return "runtime_error";
    case NN_UNSUPPORTED_OPERATION: return "unsupported_operation";
    case NN_TOO_LARGE: return "too_large";
    case NN_NOT_FOUND: return "not_found";
    case NN_END_OF_SEQUENCE: return "end_of_sequence";
    case NN_CONTEXT_FULL: return "context_full";
    case NN_PROMPT_TOO_LONG: return "prompt_too_long";
    case NN_MODEL_NOT_FOUND: return "model_not_found";
    default: return "an unknown errno";
    }
}

#endif
