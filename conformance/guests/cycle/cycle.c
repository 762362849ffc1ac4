/* A benchmark's guest: set_input, compute and get_output in a loop.
 *
 *   cycle NAME OUTPUT_BYTES ITERATIONS DIM...
 *
 * Feeds the named model an f32 tensor of the given dimensions, ITERATIONS times, and prints the
 * nanoseconds of the whole loop and the sum of the last output's bytes. */
#define GUEST "cycle"
#include <time.h>

#include "guest.h"

#define MOST_DIMENSIONS 8
/* So that neither the count of bytes nor a pointer can wrap on 32 bits. */
#define MOST_BYTES (1u << 30)

int main(int argc, char **argv) {
    if (argc < 5 || argc > 4 + MOST_DIMENSIONS)
        give_usage("cycle NAME OUTPUT_BYTES ITERATIONS DIM...");
    uint32_t size = number_in(argv[2], MOST_BYTES);
    uint32_t iterations = number_in(argv[3], UINT32_MAX);
    uint32_t dims[MOST_DIMENSIONS], rank = 0, elements = 1;
    for (int i = 4; i < argc; i++) {
        dims[rank] = number_in(argv[i], MOST_BYTES / sizeof(float));
        if (dims[rank] && elements > MOST_BYTES / sizeof(float) / dims[rank])
            give_up(argv[i], "too many elements");
        elements *= dims[rank++];
    }
    /* One byte more, because malloc may answer 0 bytes with no pointer. */
    float *input = malloc(elements * sizeof *input + 1);
    unsigned char *output = malloc(size + 1);
    if (!input || !output) give_up("malloc", "out of memory");
    for (uint32_t i = 0; i < elements; i++) input[i] = (float)(i % 251) / 251.0f;

    nn_graph graph;
    nn_context context;
    must("load_by_name", nn_load_by_name(argv[1], (uint32_t)strlen(argv[1]), &graph));
    must("init_execution_context", nn_init_execution_context(graph, &context));
    nn_tensor tensor = {dims, rank, NN_F32, input, (uint32_t)(elements * sizeof *input)};
    uint32_t written = 0;
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (uint32_t i = 0; i < iterations; i++) {
        must("set_input", nn_set_input(context, 0, &tensor));
        must("compute", nn_compute(context));
        must("get_output", nn_get_output(context, 0, output, size, &written));
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    int64_t elapsed = (end.tv_sec - start.tv_sec) * 1000000000LL + (end.tv_nsec - start.tv_nsec);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < written && i < size; i++) sum += output[i];
    print_number((uint64_t)elapsed, 1);
    print(" ");
    print_number(sum, 1);
    print("\n");
    print_flush();
    return 0;
}
