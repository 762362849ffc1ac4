/* A benchmark's guest: set_input, compute and get_output in a loop.
 *
 *   cycle NAME OUTPUT_BYTES ITERATIONS DIM...
 *
 * Feeds the named model an f32 tensor of the given dimensions, ITERATIONS times, and prints the
 * nanoseconds of the whole loop and the sum of the last output's bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "wasi_nn.h"

#define CHECK(call)                                                                                \
    do {                                                                                           \
        nn_errno code = (call);                                                                    \
        if (code != NN_SUCCESS) {                                                                  \
            fprintf(stderr, "cycle: %s: %s\n", #call, nn_errno_name(code));                        \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

int main(int argc, char **argv) {
    if (argc < 5 || argc > 12) {
        fputs("usage: cycle NAME OUTPUT_BYTES ITERATIONS DIM...\n", stderr);
        return 2;
    }
    uint32_t size = (uint32_t)strtoul(argv[2], NULL, 10);
    unsigned long iterations = strtoul(argv[3], NULL, 10);
    uint32_t dims[8], rank = 0, elements = 1;
    for (int i = 4; i < argc; i++) {
        dims[rank] = (uint32_t)strtoul(argv[i], NULL, 10);
        elements *= dims[rank++];
    }
    float *input = malloc(elements * sizeof *input);
    unsigned char *output = malloc(size);
    if (!input || !output) return 3;
    for (uint32_t i = 0; i < elements; i++) input[i] = (float)(i % 251) / 251.0f;

    nn_graph graph;
    nn_context context;
    CHECK(nn_load_by_name(argv[1], (uint32_t)strlen(argv[1]), &graph));
    CHECK(nn_init_execution_context(graph, &context));
    nn_tensor tensor = {dims, rank, NN_F32, input, (uint32_t)(elements * sizeof *input)};
    uint32_t written = 0;
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (unsigned long i = 0; i < iterations; i++) {
        CHECK(nn_set_input(context, 0, &tensor));
        CHECK(nn_compute(context));
        CHECK(nn_get_output(context, 0, output, size, &written));
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    long long elapsed =
        (end.tv_sec - start.tv_sec) * 1000000000LL + (end.tv_nsec - start.tv_nsec);
    unsigned long sum = 0;
    for (uint32_t i = 0; i < written; i++) sum += output[i];
    printf("%lld %lu\n", elapsed, sum);
    return 0;
}
