/* The interpreter with WasmEdge's additions, for hosts that have them. */
#define GUEST "interpreter"
#include "../interpreter/core.h"
#include "wasi_nn_ext.h"

static int32_t call_with_config(const uint32_t *v) {
    return nn_load_by_name_with_config(AT(const char, v[0]), v[1], AT(const char, v[2]), v[3],
                                       AT(nn_graph, v[4]));
}
static int32_t call_compute_single(const uint32_t *v) { return nn_compute_single(v[0]); }
static int32_t call_get_output_single(const uint32_t *v) {
    return nn_get_output_single(v[0], v[1], AT(void, v[2]), v[3], AT(uint32_t, v[4]));
}
static int32_t call_fini_single(const uint32_t *v) { return nn_fini_single(v[0]); }
static int32_t call_unload(const uint32_t *v) { return nn_unload(v[0]); }
static int32_t call_finalize(const uint32_t *v) { return nn_finalize_execution_context(v[0]); }

int main(int count, char **arguments) {
    static const Function functions[] = {
        CORE,
        {"load_by_name_with_config", 5, call_with_config},
        {"compute_single", 1, call_compute_single},
        {"get_output_single", 5, call_get_output_single},
        {"fini_single", 1, call_fini_single},
        {"unload", 1, call_unload},
        {"finalize_execution_context", 1, call_finalize},
    };
    return run_script(functions, sizeof functions / sizeof *functions,
                      count > 1 ? arguments[1] : NULL);
}
