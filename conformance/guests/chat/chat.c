/* Talks with a language model: reads a turn from each line of standard input, and prints the answer
 * token by token as it comes.
 *
 *   chat [--system TEXT] [--config JSON] [MODEL]
 *
 * The host offers the model under the name MODEL ("default"). JSON is laid over the model's config;
 * {"temp": 0} always takes the likeliest token. The conversation goes to the host as a list of
 * messages, which its ggml backend puts into the model's own chat template. An empty line or the
 * end of the input ends the conversation. */
#define GUEST "chat"
#include "talk.h"
#include "wasi_nn_ext.h"

#define USAGE "chat [--system TEXT] [--config JSON] [MODEL]"

static char answer[MOST_TALK / 8];

static void set_input(nn_context context, uint32_t index, const char *text, uint32_t length) {
    const nn_tensor tensor = {&length, 1, NN_U8, text, length};
    must("set_input", nn_set_input(context, index, &tensor));
}

/* Prints the answer and gives its length. */
static uint32_t reply(nn_context context) {
    uint32_t used = 0, written = 0;
    for (;;) {
        nn_errno code = nn_compute_single(context);
        if (code == NN_END_OF_SEQUENCE) break;
        if (code == NN_CONTEXT_FULL || code == NN_PROMPT_TOO_LONG) {
            complain("the conversation", "fills the model's context (its config's ctx-size)");
            break;
        }
        must("compute_single", code);
        if (sizeof answer - used < 256) give_up("the answer", "too long");
        char *piece = answer + used;
        must("get_output_single", nn_get_output_single(context, 0, piece, 256, &written));
        used += written;
        print_bytes(piece, written);
        print_flush();
    }
    must("fini_single", nn_fini_single(context));
    print("\n");
    return used;
}

int main(int count, char **arguments) {
    const char *model = "default", *config = NULL;
    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--system") == 0 && i + 1 < count) {
            i++;
            say("system", arguments[i], (uint32_t)strlen(arguments[i]));
        } else if (strcmp(arguments[i], "--config") == 0 && i + 1 < count) {
            config = arguments[++i];
        } else if (arguments[i][0] == '-') {
            give_usage(USAGE);
        } else {
            model = arguments[i];
        }
    }
    nn_graph graph;
    nn_context context;
    must(model, nn_load_by_name(model, (uint32_t)strlen(model), &graph));
    must("init_execution_context", nn_init_execution_context(graph, &context));
    const char *chat = "{\"enable-chat-template\": true}";
    set_input(context, 1, chat, (uint32_t)strlen(chat));
    if (config) set_input(context, 1, config, (uint32_t)strlen(config));
    int asks = isatty(STDIN_FILENO);
    for (;;) {
        if (asks) print("> ");
        print_flush();
        int length = read_line();
        if (length <= 0) break;
        say("user", line, (uint32_t)length);
        add(']');
        set_input(context, 0, talk, talk_used);
        talk_used--;
        say("assistant", answer, reply(context));
    }
    must("finalize_execution_context", nn_finalize_execution_context(context));
    must("unload", nn_unload(graph));
    print_flush();
    return 0;
}
