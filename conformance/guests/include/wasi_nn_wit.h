/* The component interface `wasi:nn` of 2024-10-28 under the names of wasi_nn.h, for a guest that is
 * compiled as a component. Include it before everything else, so that it takes that header's place.
 *
 * The functions are the interface's, lowered as the canonical ABI says. Resources are handles that
 * the guest drops; an nn_errno is 0 or an error's code and one. The interface has no set-input:
 * inputs are kept here and passed to `compute`, outputs are kept until the next one. */
#ifndef WASI_NN_H
#define WASI_NN_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint32_t nn_graph;
typedef uint32_t nn_context;
typedef int32_t nn_errno;

enum {
    NN_SUCCESS = 0,
    NN_INVALID_ARGUMENT = 1,
    NN_INVALID_ENCODING = 2,
    NN_TIMEOUT = 3,
    NN_RUNTIME_ERROR = 4,
    NN_UNSUPPORTED_OPERATION = 5,
    NN_TOO_LARGE = 6,
    NN_NOT_FOUND = 7,
    NN_SECURITY = 8,
    NN_UNKNOWN = 9,
};

enum { NN_F16 = 0, NN_F32 = 1, NN_F64 = 2, NN_BF16 = 3, NN_U8 = 4, NN_I32 = 5, NN_I64 = 6 };

enum {
    NN_OPENVINO = 0,
    NN_ONNX = 1,
    NN_TENSORFLOW = 2,
    NN_PYTORCH = 3,
    NN_TENSORFLOWLITE = 4,
    NN_GGML = 5,
    NN_AUTODETECT = 6,
};

enum { NN_CPU = 0, NN_GPU = 1, NN_TPU = 2 };

typedef struct {
    const void *data;
    uint32_t length;
} nn_graph_builder;

typedef struct {
    const uint32_t *dimensions;
    uint32_t rank;
    uint8_t type;
    const void *data;
    uint32_t length; /* in bytes */
} nn_tensor;

_Static_assert(sizeof(nn_tensor) == 20, "the core ABI's tensor takes 20 bytes");

/* Lists and strings are an address and a length; a result is a tag and what it holds. */
typedef struct {
    const char *name;
    uint32_t length;
    uint32_t tensor;
} nn_named_tensor;
typedef struct {
    uint8_t failed;
    uint32_t handle;
} nn_handle_result;
typedef struct {
    uint8_t failed;
    union {
        uint32_t error;
        struct {
            nn_named_tensor *items;
            uint32_t count;
        };
    };
} nn_tensors_result;
typedef struct {
    void *data;
    uint32_t length;
} nn_list;

#define NN_IMPORT(interface, name)                                                                 \
    __attribute__((import_module("wasi:nn/" interface "@0.2.0-rc-2024-10-28"), import_name(name)))

NN_IMPORT("tensor", "[constructor]tensor")
uint32_t nn_wit_tensor(const uint32_t *dimensions, uint32_t rank, uint32_t type, const void *data,
                       uint32_t length);
NN_IMPORT("tensor", "[method]tensor.data") void nn_wit_data(uint32_t tensor, nn_list *data);
NN_IMPORT("tensor", "[method]tensor.ty") uint32_t nn_wit_type(uint32_t tensor);
NN_IMPORT("tensor", "[method]tensor.dimensions")
void nn_wit_dimensions(uint32_t tensor, nn_list *dimensions);
NN_IMPORT("tensor", "[resource-drop]tensor") void nn_wit_drop_tensor(uint32_t tensor);
NN_IMPORT("errors", "[method]error.code") uint32_t nn_wit_code(uint32_t error);
NN_IMPORT("errors", "[method]error.data") void nn_wit_reason(uint32_t error, nn_list *reason);
NN_IMPORT("errors", "[resource-drop]error") void nn_wit_drop_error(uint32_t error);
NN_IMPORT("inference", "[method]graph-execution-context.compute")
void nn_wit_compute(uint32_t context, const nn_named_tensor *inputs, uint32_t count,
                    nn_tensors_result *outputs);
NN_IMPORT("inference", "[resource-drop]graph-execution-context")
void nn_wit_drop_context(uint32_t context);
NN_IMPORT("graph", "load")
void nn_wit_load(const nn_graph_builder *builders, uint32_t count, uint32_t encoding,
                 uint32_t target, nn_handle_result *graph);
NN_IMPORT("graph", "load-by-name")
void nn_wit_load_by_name(const char *name, uint32_t length, nn_handle_result *graph);
NN_IMPORT("graph", "[method]graph.init-execution-context")
void nn_wit_init(uint32_t graph, nn_handle_result *context);
NN_IMPORT("graph", "[resource-drop]graph") void nn_wit_drop_graph(uint32_t graph);

/* Where the host asks for room for what it gives. */
__attribute__((export_name("cabi_realloc"))) void *nn_realloc(void *old, uint32_t old_size,
                                                              uint32_t alignment, uint32_t size) {
    (void)old_size;
    if (size == 0) return (void *)(uintptr_t)alignment;
    void *place = realloc(old, size);
    if (!place) abort();
    return place;
}

/* What goes into a context and came out of it. */
#define NN_MOST_INPUTS 16
typedef struct {
    uint32_t context;
    uint32_t inputs, outputs;
    nn_named_tensor input[NN_MOST_INPUTS];
    nn_named_tensor *output;
} nn_flow;
#define NN_MOST_FLOWS 64
static nn_flow nn_flows[NN_MOST_FLOWS];

static inline nn_flow *nn_flow_of(nn_context context) {
    for (uint32_t i = 0; i < NN_MOST_FLOWS; i++) {
        if (!nn_flows[i].context) nn_flows[i].context = context;
        if (nn_flows[i].context == context) return &nn_flows[i];
    }
    abort();
}

/* The last error's reason, with a NUL behind it. */
static char nn_reason[1024];

static inline nn_errno nn_failed(uint32_t error) {
    nn_errno code = (nn_errno)nn_wit_code(error) + 1;
    nn_list reason;
    nn_wit_reason(error, &reason);
    uint32_t length = reason.length < sizeof nn_reason ? reason.length : sizeof nn_reason - 1;
    memcpy(nn_reason, reason.data, length);
    nn_reason[length] = 0;
    if (reason.length) free(reason.data);
    nn_wit_drop_error(error);
    return code;
}

static inline nn_errno nn_handle(nn_handle_result result, uint32_t *handle) {
    if (result.failed) return nn_failed(result.handle);
    *handle = result.handle;
    return NN_SUCCESS;
}

static inline nn_errno nn_load(const nn_graph_builder *builders, uint32_t count, uint32_t encoding,
                               uint32_t target, nn_graph *graph) {
    nn_handle_result result;
    nn_wit_load(builders, count, encoding, target, &result);
    return nn_handle(result, graph);
}

static inline nn_errno nn_load_by_name(const char *name, uint32_t length, nn_graph *graph) {
    nn_handle_result result;
    nn_wit_load_by_name(name, length, &result);
    return nn_handle(result, graph);
}

static inline nn_errno nn_init_execution_context(nn_graph graph, nn_context *context) {
    nn_handle_result result;
    nn_wit_init(graph, &result);
    return nn_handle(result, context);
}

static inline char *nn_copy(const char *text, uint32_t length) {
    char *copy = malloc(length + 1);
    if (!copy) abort();
    memcpy(copy, text, length);
    copy[length] = 0;
    return copy;
}

/* An input by its name, for the next `compute`; one of the same name is replaced. */
static inline nn_errno nn_set_named_input(nn_context context, const char *name, uint32_t length,
                                          const nn_tensor *tensor) {
    nn_flow *flow = nn_flow_of(context);
    uint32_t at = 0;
    while (at < flow->inputs && (flow->input[at].length != length ||
                                 memcmp(flow->input[at].name, name, length) != 0))
        at++;
    if (at == NN_MOST_INPUTS) return NN_TOO_LARGE;
    if (at < flow->inputs) {
        nn_wit_drop_tensor(flow->input[at].tensor);
    } else {
        flow->inputs++;
        flow->input[at].name = nn_copy(name, length);
        flow->input[at].length = length;
    }
    flow->input[at].tensor = nn_wit_tensor(tensor->dimensions, tensor->rank, tensor->type,
                                           tensor->data, tensor->length);
    return NN_SUCCESS;
}

/* An input by its number, whose decimal digits are its name. */
static inline nn_errno nn_set_input(nn_context context, uint32_t index, const nn_tensor *tensor) {
    char digits[10];
    uint32_t at = sizeof digits;
    do digits[--at] = (char)('0' + index % 10);
    while (index /= 10);
    return nn_set_named_input(context, digits + at, sizeof digits - at, tensor);
}

static inline void nn_forget_outputs(nn_flow *flow) {
    for (uint32_t i = 0; i < flow->outputs; i++) {
        nn_wit_drop_tensor(flow->output[i].tensor);
        if (flow->output[i].length) free((void *)flow->output[i].name);
    }
    if (flow->outputs) free(flow->output);
    flow->outputs = 0;
}

static inline nn_errno nn_compute(nn_context context) {
    nn_flow *flow = nn_flow_of(context);
    nn_tensors_result result;
    nn_forget_outputs(flow);
    nn_wit_compute(context, flow->input, flow->inputs, &result);
    /* The host has the tensors now, whatever it says. */
    for (uint32_t i = 0; i < flow->inputs; i++) free((void *)flow->input[i].name);
    flow->inputs = 0;
    if (result.failed) return nn_failed(result.error);
    flow->output = result.items;
    flow->outputs = result.count;
    return NN_SUCCESS;
}

static inline nn_errno nn_get_output(nn_context context, uint32_t index, void *buffer,
                                     uint32_t size, uint32_t *written) {
    nn_flow *flow = nn_flow_of(context);
    if (index >= flow->outputs) return NN_INVALID_ARGUMENT;
    nn_list data;
    nn_wit_data(flow->output[index].tensor, &data);
    nn_errno code = data.length > size ? NN_TOO_LARGE : NN_SUCCESS;
    if (code == NN_SUCCESS && data.length) memcpy(buffer, data.data, data.length);
    if (data.length) free(data.data);
    *written = data.length;
    return code;
}

/* An output's type and dimensions. The rank is written even where it is more than there is room. */
static inline nn_errno nn_get_output_shape(nn_context context, uint32_t index, uint32_t *type,
                                           uint32_t *rank, uint32_t *dimensions, uint32_t room) {
    nn_flow *flow = nn_flow_of(context);
    if (index >= flow->outputs) return NN_INVALID_ARGUMENT;
    nn_list given;
    nn_wit_dimensions(flow->output[index].tensor, &given);
    *type = nn_wit_type(flow->output[index].tensor);
    *rank = given.length;
    nn_errno code = given.length > room ? NN_TOO_LARGE : NN_SUCCESS;
    if (code == NN_SUCCESS) memcpy(dimensions, given.data, given.length * sizeof *dimensions);
    if (given.length) free(given.data);
    return code;
}

static inline nn_errno nn_finalize_execution_context(nn_context context) {
    nn_flow *flow = nn_flow_of(context);
    nn_forget_outputs(flow);
    for (uint32_t i = 0; i < flow->inputs; i++) {
        nn_wit_drop_tensor(flow->input[i].tensor);
        free((void *)flow->input[i].name);
    }
    memset(flow, 0, sizeof *flow);
    nn_wit_drop_context(context);
    return NN_SUCCESS;
}

static inline nn_errno nn_unload(nn_graph graph) {
    nn_wit_drop_graph(graph);
    return NN_SUCCESS;
}

static inline const char *nn_errno_name(nn_errno code) {
    static const char *const names[] = {
        "success",       "invalid-argument",      "invalid-encoding", "timeout",
        "runtime-error", "unsupported-operation", "too-large",        "not-found",
        "security",      "unknown",
    };
    return (uint32_t)code < sizeof names / sizeof *names ? names[code] : "an unknown error";
}

#endif
