/* Sends a text through a named model and prints what comes back.
 *
 *   echo [--stream] NAME TEXT
 *
 * The text goes in as a u8 tensor at input 0. With --stream the answer is read piece by piece
 * with WasmEdge's streaming calls, and each piece is printed as soon as it is there. */
#define GUEST "echo"
#include "guest.h"
#include "wasi_nn_ext.h"

static char buffer[1 << 16];

/* WasmEdge's language models tell the whole length even where the buffer held less. */
static void print_answer(uint32_t written) {
    print_bytes(buffer, written < sizeof buffer ? written : sizeof buffer);
    print_flush();
}

static void print_whole(nn_context context) {
    uint32_t written = 0;
    must("compute", nn_compute(context));
    must("get_output", nn_get_output(context, 0, buffer, sizeof buffer, &written));
    print_answer(written);
}

static void print_stream(nn_context context) {
    nn_errno code;
    while ((code = nn_compute_single(context)) == NN_SUCCESS) {
        uint32_t written = 0;
        must("get_output_single",
             nn_get_output_single(context, 0, buffer, sizeof buffer, &written));
        print_answer(written);
    }
    if (code != NN_END_OF_SEQUENCE) must("compute_single", code);
    must("fini_single", nn_fini_single(context));
}

int main(int argc, char **argv) {
    int stream = argc > 1 && strcmp(argv[1], "--stream") == 0;
    if (argc != 3 + stream) give_usage("echo [--stream] NAME TEXT");
    const char *name = argv[1 + stream], *text = argv[2 + stream];
    nn_graph graph;
    nn_context context;
    must("load_by_name", nn_load_by_name(name, (uint32_t)strlen(name), &graph));
    must("init_execution_context", nn_init_execution_context(graph, &context));
    uint32_t length = (uint32_t)strlen(text);
    nn_tensor tensor = {&length, 1, NN_U8, text, length};
    must("set_input", nn_set_input(context, 0, &tensor));
    if (stream)
        print_stream(context);
    else
        print_whole(context);
    return 0;
}
