/* Sends a text through a named model and prints what comes back.
 *
 *   echo [--stream] NAME TEXT
 *
 * The text goes in as a u8 tensor at input 0. With --stream the answer is read piece by piece
 * with WasmEdge's streaming calls, and each piece is printed as soon as it is there. */
#include <stdio.h>
#include <string.h>

#include "wasi_nn_ext.h"

static char buffer[1 << 16];

static int failed(const char *what, nn_errno code) {
    fprintf(stderr, "echo: %s: %s\n", what, nn_errno_name(code));
    return 1;
}

static int print_whole(nn_context context) {
    nn_errno code = nn_compute(context);
    if (code) return failed("compute", code);
    uint32_t written;
    code = nn_get_output(context, 0, buffer, sizeof buffer, &written);
    if (code) return failed("get_output", code);
    fwrite(buffer, 1, written, stdout);
    return 0;
}

static int print_stream(nn_context context) {
    nn_errno code;
    while ((code = nn_compute_single(context)) == NN_SUCCESS) {
        uint32_t written;
        code = nn_get_output_single(context, 0, buffer, sizeof buffer, &written);
        if (code) return failed("get_output_single", code);
        fwrite(buffer, 1, written, stdout);
        fflush(stdout);
    }
    if (code != NN_END_OF_SEQUENCE) return failed("compute_single", code);
    code = nn_fini_single(context);
    return code ? failed("fini_single", code) : 0;
}

int main(int argc, char **argv) {
    int stream = argc > 1 && strcmp(argv[1], "--stream") == 0;
    if (argc != 3 + stream) {
        fputs("usage: echo [--stream] NAME TEXT\n", stderr);
        return 2;
    }
    const char *name = argv[1 + stream], *text = argv[2 + stream];
    nn_graph graph;
    nn_context context;
    nn_errno code = nn_load_by_name(name, (uint32_t)strlen(name), &graph);
    if (code) return failed("load_by_name", code);
    code = nn_init_execution_context(graph, &context);
    if (code) return failed("init_execution_context", code);
    uint32_t length = (uint32_t)strlen(text);
    nn_tensor tensor = {&length, 1, NN_U8, text, length};
    code = nn_set_input(context, 0, &tensor);
    if (code) return failed("set_input", code);
    return stream ? print_stream(context) : print_whole(context);
}
