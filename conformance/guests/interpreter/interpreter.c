/* The interpreter for the specification's functions: runs on every host of the core ABI. */
#define GUEST "interpreter"
#include "core.h"

int main(int count, char **arguments) {
    static const Function functions[] = {CORE};
    return run_script(functions, sizeof functions / sizeof *functions,
                      count > 1 ? arguments[1] : NULL);
}
