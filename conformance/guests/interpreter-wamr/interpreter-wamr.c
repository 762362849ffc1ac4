/* The interpreter for WAMR's legacy module `wasi_nn`, whose load has no count of builders and whose
 * get_output takes the size by a pointer. */
#define GUEST "interpreter"
#include "../interpreter/script.h"

#define LEGACY(name) __attribute__((import_module("wasi_nn"), import_name(name)))

LEGACY("load") int32_t legacy_load(uint32_t builders, uint32_t encoding, uint32_t target, uint32_t out);
LEGACY("load_by_name") int32_t legacy_load_by_name(uint32_t name, uint32_t length, uint32_t out);
LEGACY("init_execution_context") int32_t legacy_init(uint32_t graph, uint32_t out);
LEGACY("set_input") int32_t legacy_set_input(uint32_t context, uint32_t index, uint32_t tensor);
LEGACY("compute") int32_t legacy_compute(uint32_t context);
LEGACY("get_output")
int32_t legacy_get_output(uint32_t context, uint32_t index, uint32_t buffer, uint32_t size);

static int32_t call_load(const uint32_t *v) { return legacy_load(v[0], v[1], v[2], v[3]); }
static int32_t call_load_by_name(const uint32_t *v) { return legacy_load_by_name(v[0], v[1], v[2]); }
static int32_t call_init(const uint32_t *v) { return legacy_init(v[0], v[1]); }
static int32_t call_set_input(const uint32_t *v) { return legacy_set_input(v[0], v[1], v[2]); }
static int32_t call_compute(const uint32_t *v) { return legacy_compute(v[0]); }
static int32_t call_get_output(const uint32_t *v) {
    return legacy_get_output(v[0], v[1], v[2], v[3]);
}

int main(int count, char **arguments) {
    static const Function functions[] = {
        {"load", 4, call_load},
        {"load_by_name", 3, call_load_by_name},
        {"init_execution_context", 2, call_init},
        {"set_input", 3, call_set_input},
        {"compute", 1, call_compute},
        {"get_output", 4, call_get_output},
    };
    return run_script(functions, sizeof functions / sizeof *functions,
                      count > 1 ? arguments[1] : NULL);
}
