/* Serves a language model over HTTP/1.1, as OpenAI's API has it.
 *
 *   chat-server [--requests N] HOST PORT [MODEL]
 *
 *   GET /                       says that the server works
 *   POST /echo                  answers with the request's body
 *   GET /v1/models              lists the model
 *   POST /v1/chat/completions   reads messages, stream, max_tokens and temperature
 *
 * PORT 0 is a port that the system chooses; the first line says which. The host offers the model
 * under the name MODEL ("default"). It loads at the first question. The server ends after N
 * requests. It has one thread: the model answers one request at a time, and between two tokens the
 * server serves its other connections. */
#define GUEST "chat-server"
#define MOST_CONNECTIONS 64
#include "talk.h"
#include "wasi_nn_ext.h"

#include "http.h"

#define USAGE "chat-server [--requests N] HOST PORT [MODEL]"
#define PATIENCE 60 /* seconds in which a peer has to move something */

enum { LISTENER = MOST_CONNECTIONS, CLOCK };

static Connection *connections[MOST_CONNECTIONS];
static uint32_t live, answered, tickets;
static const char *model = "default";

/* The request that the model answers; the next ones wait in the order of their numbers. */
static struct {
    Connection *peer;
    nn_context context;
    int streams, is_open;
    uint32_t tokens, most, number, used, told;
    char text[MOST_TALK / 8];
} answer;

static void put_json(Connection *to, const char *status) {
    put_answer(to, status, "application/json", talk, talk_used);
    talk_used = 0;
}

static void put_error(Connection *to, const char *status, const char *why) {
    talk_used = 0;
    add_text("{\"error\":{\"message\":");
    add_quoted(why, (uint32_t)strlen(why));
    add_text("}}");
    put_json(to, status);
}

static void add_number(uint32_t number) {
    if (number >= 10) add_number(number / 10);
    add((char)('0' + number % 10));
}

/* What an answer and each of its events begin with. */
static void add_answer(const char *object) {
    talk_used = 0;
    add_text("{\"id\":\"chatcmpl-");
    add_number(answer.number);
    add_text("\",\"object\":\"");
    add_text(object);
    add_text("\",\"created\":");
    add_number((uint32_t)now_in(__WASI_CLOCKID_REALTIME));
    add_text(",\"model\":");
    add_quoted(model, (uint32_t)strlen(model));
    add_text(",\"choices\":[{\"index\":0,");
}

static void put_event(const char *end) {
    static const char before[] = "data: ";
    add_text(end);
    memmove(talk + sizeof before - 1, talk, talk_used);
    memcpy(talk, before, sizeof before - 1);
    talk_used += sizeof before - 1;
    add_text("\n\n");
    put_chunk(answer.peer, talk, talk_used);
    talk_used = 0;
}

/* How many bytes of the text are whole characters of UTF-8. A token may be a part of one. */
static uint32_t whole_characters(const char *text, uint32_t length) {
    uint32_t at = length;
    while (at > 0 && length - at < 3 && ((unsigned char)text[at - 1] & 0xC0) == 0x80) at--;
    if (at == 0) return length;
    unsigned char first = (unsigned char)text[at - 1];
    uint32_t needs = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1;
    return length - at + 1 < needs ? at - 1 : length;
}

/* Sends what the stream's peer has not been told. */
static void tell(int all) {
    uint32_t until = all ? answer.used : whole_characters(answer.text, answer.used);
    if (until == answer.told) return;
    add_answer("chat.completion.chunk");
    add_text("\"delta\":{\"content\":");
    add_quoted(answer.text + answer.told, until - answer.told);
    answer.told = until;
    put_event("},\"finish_reason\":null}]}");
}

/* Tokens of the prompt, from the metadata that WasmEdge's ggml has as its second output. */
static uint32_t prompt_tokens(void) {
    char metadata[256];
    uint32_t length = 0;
    nn_errno code = nn_get_output(answer.context, 1, metadata, sizeof metadata, &length);
    if (code != NN_SUCCESS) return 0;
    return number_of(value_of((Span){metadata, length}, "input_tokens"), 0);
}

static void add_usage(void) {
    uint32_t prompt = prompt_tokens();
    add_text("\"usage\":{\"prompt_tokens\":");
    add_number(prompt);
    add_text(",\"completion_tokens\":");
    add_number(answer.tokens);
    add_text(",\"total_tokens\":");
    add_number(prompt + answer.tokens);
    add_text("}}");
}

/* Frees the model for the next request. */
static void end_answer(void) {
    Connection *peer = answer.peer;
    if (answer.is_open) {
        nn_fini_single(answer.context);
        nn_finalize_execution_context(answer.context);
    }
    answer.peer = NULL;
    end_request(peer);
    if (peer->gone) return;
    answered++;
    send_rest(peer);
}

static void fail(const char *status, const char *why) {
    /* A stream that has begun can only be cut off. */
    if (answer.streams && answer.tokens) answer.peer->gone = 1;
    else put_error(answer.peer, status, why);
    end_answer();
}

static void finish(const char *reason) {
    if (answer.streams) {
        tell(1);
        add_answer("chat.completion.chunk");
        add_text("\"delta\":{},\"finish_reason\":\"");
        add_text(reason);
        put_event("\"}]}");
        put_chunk(answer.peer, "data: [DONE]\n\n", 14);
        put_text(answer.peer, "0\r\n\r\n");
    } else {
        add_answer("chat.completion");
        add_text("\"message\":{\"role\":\"assistant\",\"content\":");
        add_quoted(answer.text, answer.used);
        add_text("},\"finish_reason\":\"");
        add_text(reason);
        add_text("\"}],");
        add_usage();
        put_json(answer.peer, "200 OK");
    }
    end_answer();
}

/* One token. */
static void answer_more(void) {
    nn_errno code = answer.tokens < answer.most ? nn_compute_single(answer.context) : NN_SUCCESS;
    if (answer.tokens == answer.most) finish("length");
    else if (code == NN_END_OF_SEQUENCE) finish("stop");
    else if (code == NN_CONTEXT_FULL && answer.tokens) finish("length");
    else if (code == NN_CONTEXT_FULL || code == NN_PROMPT_TOO_LONG)
        fail("400 Bad Request", "the messages do not fit the model's context");
    else if (code != NN_SUCCESS) fail("500 Internal Server Error", nn_errno_name(code));
    else {
        uint32_t written = 0, left = sizeof answer.text - answer.used;
        code = nn_get_output_single(answer.context, 0, answer.text + answer.used, left, &written);
        if (code == NN_TOO_LARGE) {
            finish("length");
            return;
        }
        if (code != NN_SUCCESS) {
            fail("500 Internal Server Error", nn_errno_name(code));
            return;
        }
        if (answer.streams && !answer.tokens) {
            put_head(answer.peer, "200 OK", "text/event-stream");
            put_text(answer.peer, "Transfer-Encoding: chunked\r\n\r\n");
            add_answer("chat.completion.chunk");
            add_text("\"delta\":{\"role\":\"assistant\",\"content\":\"\"},");
            put_event("\"finish_reason\":null}]}");
        }
        answer.tokens++;
        answer.used += written;
        if (answer.streams) tell(0);
        send_rest(answer.peer);
    }
}

static nn_errno set_input(uint32_t index, const char *text, uint32_t length) {
    const nn_tensor tensor = {&length, 1, NN_U8, text, length};
    return nn_set_input(answer.context, index, &tensor);
}

/* Gives the model the request of a connection. */
static void begin_answer(Connection *peer) {
    static nn_graph graph;
    static int is_loaded;
    const Span messages = value_of(peer->body, "messages");
    const Span temperature = value_of(peer->body, "temperature");
    const Span limit = value_of(peer->body, "max_tokens");
    answer.peer = peer;
    peer->state = IS_ANSWERED;
    answer.number++;
    answer.streams = is_text(value_of(peer->body, "stream"), "true");
    answer.most = number_of(limit, UINT32_MAX);
    answer.is_open = 0;
    answer.tokens = answer.used = answer.told = 0;
    if (!messages.length || *messages.at != '[') {
        fail("400 Bad Request", "the request has no messages");
        return;
    }
    nn_errno code = NN_SUCCESS;
    if (!is_loaded) code = nn_load_by_name(model, (uint32_t)strlen(model), &graph);
    if (code != NN_SUCCESS) {
        fail("500 Internal Server Error", "the host has no such model");
        return;
    }
    is_loaded = 1;
    code = nn_init_execution_context(graph, &answer.context);
    answer.is_open = code == NN_SUCCESS;
    talk_used = 0;
    add_text("{\"enable-chat-template\":true");
    if (temperature.length && temperature.length < 20) {
        add_text(",\"temp\":");
        for (uint32_t i = 0; i < temperature.length; i++) add(temperature.at[i]);
    }
    add('}');
    if (code == NN_SUCCESS) code = set_input(1, talk, talk_used);
    talk_used = 0;
    if (code == NN_SUCCESS) code = set_input(0, messages.at, messages.length);
    if (code != NN_SUCCESS) fail("400 Bad Request", nn_errno_name(code));
}

/* Serves the request of a connection. A question waits for the model. */
static void serve(Connection *peer) {
    if (is_text(peer->target, "/v1/chat/completions")) {
        if (is_text(peer->method, "POST")) {
            peer->state = WAITS_FOR_MODEL;
            peer->ticket = tickets++;
            return;
        }
        put_error(peer, "405 Method Not Allowed", "ask with POST");
    } else if (is_text(peer->target, "/echo") && is_text(peer->method, "POST")) {
        put_answer(peer, "200 OK", "application/octet-stream", peer->body.at, peer->body.length);
    } else if (is_text(peer->target, "/") && is_text(peer->method, "GET")) {
        put_answer(peer, "200 OK", "text/plain", "ok\n", 3);
    } else if (is_text(peer->target, "/v1/models") && is_text(peer->method, "GET")) {
        talk_used = 0;
        add_text("{\"object\":\"list\",\"data\":[{\"id\":");
        add_quoted(model, (uint32_t)strlen(model));
        add_text(",\"object\":\"model\",\"created\":0,\"owned_by\":\"host\"}]}");
        put_json(peer, "200 OK");
    } else {
        put_error(peer, "404 Not Found", "there is no such resource");
    }
    answered++;
    end_request(peer);
}

static void look_at(Connection *peer) {
    const char *problem;
    if (peer->state != READS || peer->ends || peer->out.used || !peer->in.used) return;
    if (has_request(peer, &problem)) serve(peer);
    else if (problem) {
        /* What comes next in such a stream is not known. */
        peer->keeps = 0;
        put_error(peer, problem, "this server cannot read the request");
        peer->in.used = 0;
        answered++;
    }
    send_rest(peer);
}

static void accept_all(sock_fd listener) {
    sock_fd fd;
    while (live < MOST_CONNECTIONS && accept_from(listener, &fd)) {
        Connection *made = calloc(1, sizeof *made);
        if (!made) give_up("connection", "out of memory");
        made->fd = fd;
        made->since = now();
        connections[live++] = made;
    }
}

static void remove_gone(void) {
    uint64_t time = live ? now() : 0;
    for (uint32_t i = live; i-- > 0;) {
        Connection *one = connections[i];
        int must_move = one->state == READS || one->out.used;
        if (must_move && time - one->since > PATIENCE) one->gone = 1;
        if (!one->gone) continue;
        if (answer.peer == one) end_answer();
        close_socket(one->fd);
        free(one->in.bytes);
        free(one->out.bytes);
        free(one);
        connections[i] = connections[--live];
    }
}

static void choose_next(void) {
    Connection *next = NULL;
    for (uint32_t i = 0; i < live; i++) {
        Connection *one = connections[i];
        if (one->state == WAITS_FOR_MODEL && (!next || one->ticket < next->ticket)) next = one;
    }
    if (next) begin_answer(next);
}

static int has_unsent(void) {
    for (uint32_t i = 0; i < live; i++)
        if (connections[i]->out.used) return 1;
    return 0;
}

static void wait_and_move(sock_fd listener) {
    if (live < MOST_CONNECTIONS && !is_full)
        wait_for(__WASI_EVENTTYPE_FD_READ, listener, LISTENER);
    for (uint32_t i = 0; i < live; i++) {
        if (!connections[i]->quiet) wait_for(__WASI_EVENTTYPE_FD_READ, connections[i]->fd, i);
        if (connections[i]->out.used) wait_for(__WASI_EVENTTYPE_FD_WRITE, connections[i]->fd, i);
    }
    if (live) wait_seconds(answer.peer ? 0 : PATIENCE, CLOCK);
    uint32_t happened = wait_for_all();
    for (uint32_t n = 0; n < happened; n++) {
        uint64_t name = events[n].userdata;
        if (name == LISTENER) accept_all(listener);
        if (name >= MOST_CONNECTIONS) continue;
        Connection *one = connections[name];
        if (events[n].type == __WASI_EVENTTYPE_FD_WRITE) send_rest(one);
        else receive(one);
    }
}

int main(int count, char **arguments) {
    uint32_t most = UINT32_MAX;
    int i = 1;
    for (; i < count && arguments[i][0] == '-'; i++) {
        if (strcmp(arguments[i], "--requests") != 0 || i + 1 == count) give_usage(USAGE);
        most = number_in(arguments[++i], UINT32_MAX);
    }
    if (count - i != 2 && count - i != 3) give_usage(USAGE);
    sock_fd listener = listen_on(arguments[i], arguments[i + 1]);
    if (count - i == 3) model = arguments[i + 2];
    while (answered < most || has_unsent()) {
        wait_and_move(listener);
        for (uint32_t n = 0; n < live; n++) look_at(connections[n]);
        remove_gone();
        if (!answer.peer) choose_next();
        if (answer.peer) answer_more();
    }
    return 0;
}
