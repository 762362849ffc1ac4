/* Classifies raw f32 data with any model and prints the best classes, "index score" a line.
 *
 *   classify MODEL INPUT DIM,DIM,... [TOP]
 *
 * MODEL is a file that the guest reads and hands to the host itself (encoding: autodetect), or
 * name:NAME for a model that the host has registered. INPUT holds little-endian f32 values. TOP is
 * how many classes to print, 5 unless told. */
#define GUEST "classify"
#include "files.h"

#define MOST_CLASSES 65536
#define MOST_DIMENSIONS 8

static float scores[MOST_CLASSES];
static uint8_t printed[MOST_CLASSES];

static nn_graph open_graph(const char *model) {
    nn_graph graph;
    if (strncmp(model, "name:", 5) == 0) {
        must("load_by_name", nn_load_by_name(model + 5, (uint32_t)strlen(model + 5), &graph));
        return graph;
    }
    nn_graph_builder builder;
    char *data = read_file(model, &builder.length);
    builder.data = data;
    must("load", nn_load(&builder, 1, NN_AUTODETECT, NN_CPU, &graph));
    free(data);
    return graph;
}

static uint32_t read_dimensions(char *text, uint32_t *dims) {
    uint32_t rank = 0;
    for (char *next; text; text = next) {
        next = strchr(text, ',');
        if (next) *next++ = 0;
        if (rank == MOST_DIMENSIONS) give_up(text, "more than 8 dimensions");
        dims[rank++] = number_in(text, UINT32_MAX);
    }
    return rank;
}

/* A class not printed yet, the best one; the first of equals. NaN comes last. */
static uint32_t best_left(uint32_t classes) {
    uint32_t best = classes;
    for (uint32_t i = 0; i < classes; i++) {
        if (printed[i]) continue;
        if (best == classes || scores[i] > scores[best] ||
            (isnan(scores[best]) && !isnan(scores[i])))
            best = i;
    }
    return best;
}

int main(int argc, char **argv) {
    if (argc < 4 || argc > 5) give_usage("classify MODEL|name:NAME INPUT DIM,DIM,... [TOP]");
    uint32_t top = argc > 4 ? number_in(argv[4], MOST_CLASSES) : 5;
    uint32_t dims[MOST_DIMENSIONS], rank = read_dimensions(argv[3], dims);
    nn_tensor input = {dims, rank, NN_F32, NULL, 0};
    input.data = read_file(argv[2], &input.length);
    nn_graph graph = open_graph(argv[1]);
    nn_context context;
    must("init_execution_context", nn_init_execution_context(graph, &context));
    must("set_input", nn_set_input(context, 0, &input));
    must("compute", nn_compute(context));
    uint32_t written = 0;
    must("get_output", nn_get_output(context, 0, scores, sizeof scores, &written));
    uint32_t classes = written / sizeof *scores;
    if (classes > MOST_CLASSES) classes = MOST_CLASSES;
    for (uint32_t k = 0; k < top && k < classes; k++) {
        uint32_t best = best_left(classes);
        printed[best] = 1;
        print_number(best, 1);
        print(" ");
        print_f32(scores[best], 4);
        print("\n");
    }
    print_flush();
    return 0;
}
