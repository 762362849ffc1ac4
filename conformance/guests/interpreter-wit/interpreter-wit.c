/* The interpreter as a component: the same words, on the functions of `wasi:nn`. A call gives 0 or
 * the error's code and one. Inputs go by name; outputs by their place. */
#define GUEST "interpreter-wit"
#include "wasi_nn_wit.h"

#include "../interpreter/script.h"

/* A number becomes the address that it is. */
#define AT(type, number) ((type *)(uintptr_t)(number))

static int32_t call_load(const uint32_t *v) {
    return nn_load(AT(const nn_graph_builder, v[0]), v[1], v[2], v[3], AT(nn_graph, v[4]));
}
static int32_t call_load_by_name(const uint32_t *v) {
    return nn_load_by_name(AT(const char, v[0]), v[1], AT(nn_graph, v[2]));
}
static int32_t call_init(const uint32_t *v) {
    return nn_init_execution_context(v[0], AT(nn_context, v[1]));
}
static int32_t call_set_input(const uint32_t *v) {
    return nn_set_named_input(v[0], AT(const char, v[1]), v[2], AT(const nn_tensor, v[3]));
}
static int32_t call_compute(const uint32_t *v) { return nn_compute(v[0]); }
static int32_t call_get_output(const uint32_t *v) {
    return nn_get_output(v[0], v[1], AT(void, v[2]), v[3], AT(uint32_t, v[4]));
}
/* Into a buffer of u32s: the type, the rank, the dimensions. */
static int32_t call_get_output_shape(const uint32_t *v) {
    uint32_t *shape = AT(uint32_t, v[2]);
    if (v[3] < 8) return NN_TOO_LARGE;
    return nn_get_output_shape(v[0], v[1], shape, shape + 1, shape + 2, v[3] / 4 - 2);
}
static int32_t call_finalize(const uint32_t *v) { return nn_finalize_execution_context(v[0]); }
static int32_t call_unload(const uint32_t *v) { return nn_unload(v[0]); }

int main(void) {
    static const Function functions[] = {
        {"load", 5, call_load},
        {"load_by_name", 3, call_load_by_name},
        {"init_execution_context", 2, call_init},
        {"set_input", 4, call_set_input},
        {"compute", 1, call_compute},
        {"get_output", 5, call_get_output},
        {"get_output_shape", 4, call_get_output_shape},
        {"finalize_execution_context", 1, call_finalize},
        {"unload", 1, call_unload},
    };
    return run_script(functions, sizeof functions / sizeof *functions, NULL);
}
