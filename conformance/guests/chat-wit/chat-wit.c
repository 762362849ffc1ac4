/* Talks with a language model through named tensors: reads a turn from each line of standard input,
 * and prints the answer.
 *
 *   chat-wit [--system TEXT] [--config JSON] [MODEL]
 *
 * As `chat`, but a component, whose interface knows no streaming: an answer comes as a whole. JSON is
 * an object such as {"temp": 0, "n-predict": 64}. */
#define GUEST "chat-wit"
#include "wasi_nn_wit.h"

#include "talk.h"

#define USAGE "chat-wit [--system TEXT] [--config JSON] [MODEL]"

static char answer[MOST_TALK / 8], settings[4096] = "{\"enable-chat-template\": true";

static void set_text(nn_context context, const char *name, const char *text, uint32_t length) {
    const nn_tensor tensor = {&length, 1, NN_U8, text, length};
    must(name, nn_set_named_input(context, name, (uint32_t)strlen(name), &tensor));
}

/* The rest of an object, behind what is in the settings already. */
static void configure(const char *config) {
    config += strspn(config, " ");
    if (*config != '{' || strlen(config) > sizeof settings - strlen(settings) - 2)
        give_up("--config", "not an object, or too long");
    config += 1 + strspn(config + 1, " ");
    strcat(settings, *config == '}' ? "" : ", ");
    strcat(settings, config);
}

/* The length without the token that ends the model's turn, which is part of the text. */
static uint32_t without_end(const char *text, uint32_t length) {
    static const char *const ends[] = {"</s>", "<end_of_turn>"};
    for (uint32_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        uint32_t size = (uint32_t)strlen(ends[i]);
        if (length >= size && memcmp(text + length - size, ends[i], size) == 0)
            return length - size;
    }
    if (length < 4 || memcmp(text + length - 2, "|>", 2) != 0) return length;
    for (uint32_t at = length - 3; at > 0; at--)
        if (memcmp(text + at - 1, "<|", 2) == 0) return at - 1;
    return length;
}

int main(int count, char **arguments) {
    const char *model = "default", *config = "{}";
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
    configure(config);
    nn_graph graph;
    nn_context context;
    must(model, nn_load_by_name(model, (uint32_t)strlen(model), &graph));
    must("init_execution_context", nn_init_execution_context(graph, &context));
    int asks = isatty(STDIN_FILENO);
    for (;;) {
        if (asks) print("> ");
        print_flush();
        int length = read_line();
        if (length <= 0) break;
        say("user", line, (uint32_t)length);
        add(']');
        /* A call knows nothing of the one before: both inputs are sent each time. */
        set_text(context, "prompt", talk, talk_used);
        set_text(context, "config", settings, (uint32_t)strlen(settings));
        talk_used--;
        nn_errno code = nn_compute(context);
        if (code != NN_SUCCESS) give_up("compute", nn_reason);
        uint32_t written = 0;
        must("the answer", nn_get_output(context, 0, answer, sizeof answer, &written));
        written = without_end(answer, written);
        print_bytes(answer, written);
        print("\n");
        say("assistant", answer, written);
    }
    must("finalize_execution_context", nn_finalize_execution_context(context));
    must("unload", nn_unload(graph));
    print_flush();
    return 0;
}
