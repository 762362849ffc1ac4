/* Classifies raw f32 data with any model and prints the best classes.
 *
 *   classify MODEL INPUT DIM,DIM,...
 *
 * MODEL is a file that the guest reads and hands to the host itself (encoding: autodetect), or
 * name:NAME for a model that the host has registered. INPUT holds little-endian f32 values. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wasi_nn.h"

#define TOP 5
#define MOST_CLASSES 65536

static float scores[MOST_CLASSES];

static int failed(const char *what, nn_errno code) {
    fprintf(stderr, "classify: %s: %s\n", what, nn_errno_name(code));
    return 1;
}

static void *read_file(const char *path, uint32_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    uint32_t room = 1 << 16, used = 0;
    char *data = malloc(room);
    while (data) {
        size_t got = fread(data + used, 1, room - used, file);
        used += got;
        if (got == 0) break;
        if (used == room) data = realloc(data, room *= 2);
    }
    fclose(file);
    *length = used;
    return data;
}

static nn_errno open_graph(const char *model, nn_graph *graph) {
    if (strncmp(model, "name:", 5) == 0)
        return nn_load_by_name(model + 5, (uint32_t)strlen(model + 5), graph);
    nn_graph_builder builder;
    builder.data = read_file(model, &builder.length);
    if (!builder.data) {
        fprintf(stderr, "classify: cannot read %s\n", model);
        exit(2);
    }
    nn_errno code = nn_load(&builder, 1, NN_AUTODETECT, NN_CPU, graph);
    free((void *)builder.data);
    return code;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fputs("usage: classify MODEL|name:NAME INPUT DIM,DIM,...\n", stderr);
        return 2;
    }
    uint32_t dims[8], rank = 0;
    for (char *at = argv[3]; rank < 8; at++) {
        dims[rank++] = (uint32_t)strtoul(at, &at, 10);
        if (*at != ',') break;
    }
    nn_tensor input = {dims, rank, NN_F32, NULL, 0};
    input.data = read_file(argv[2], &input.length);
    if (!input.data) {
        fprintf(stderr, "classify: cannot read %s\n", argv[2]);
        return 2;
    }
    nn_graph graph;
    nn_context context;
    nn_errno code = open_graph(argv[1], &graph);
    if (code) return failed("load", code);
    code = nn_init_execution_context(graph, &context);
    if (code) return failed("init_execution_context", code);
    code = nn_set_input(context, 0, &input);
    if (code) return failed("set_input", code);
    code = nn_compute(context);
    if (code) return failed("compute", code);
    uint32_t written;
    code = nn_get_output(context, 0, scores, sizeof scores, &written);
    if (code) return failed("get_output", code);
    uint32_t classes = written / sizeof *scores;
    for (int k = 0; k < TOP && (uint32_t)k < classes; k++) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < classes; i++)
            if (scores[i] > scores[best]) best = i;
        printf("%u %.4f\n", best, (double)scores[best]);
        scores[best] = -1e30f;
    }
    return 0;
}
