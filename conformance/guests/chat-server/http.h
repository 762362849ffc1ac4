/* Connections of a server for HTTP/1.1: what came, what has to go, and one request at a time. */
#ifndef HTTP_H
#define HTTP_H

#include "json.h"
#include "serve.h"

#define MOST_HEAD (16 << 10)
#define MOST_BODY (1 << 20)
/* What a peer may leave unread. */
#define MOST_WAITING (4 << 20)

typedef struct {
    char *bytes;
    uint32_t used, size;
} Text;

typedef enum { READS, WAITS_FOR_MODEL, IS_ANSWERED } State;

typedef struct {
    sock_fd fd;
    State state;
    Text in, out;
    uint32_t sent;
    uint64_t since;  /* seconds of the clock, when something moved */
    uint32_t ticket; /* its place among those that wait for the model */
    /* Whether it stays for another request; was told to send a large body; has nothing to read for
     * now; has got its last answer; and is over. */
    int keeps, promised, quiet, ends, gone;
    /* The request. `all` bytes of `in` are its. */
    Span method, target, body;
    uint32_t all;
} Connection;

static uint64_t now_in(__wasi_clockid_t clock) {
    __wasi_timestamp_t now = 0;
    must_sock("clock_time_get", __wasi_clock_time_get(clock, 1000000, &now));
    return now / 1000000000;
}

static uint64_t now(void) { return now_in(__WASI_CLOCKID_MONOTONIC); }

/* Room behind what a text has, or NULL. */
static char *room(Text *text, uint32_t more) {
    if (text->size - text->used < more) {
        uint32_t size = text->used + more + text->used / 2 + 1024;
        char *bytes = realloc(text->bytes, size);
        if (!bytes) return NULL;
        text->bytes = bytes;
        text->size = size;
    }
    return text->bytes + text->used;
}

/* A peer that does not read, and a host without memory, lose the connection. */
static void put(Connection *to, const char *bytes, uint32_t length) {
    char *into = to->gone || to->out.used - to->sent > MOST_WAITING ? NULL : room(&to->out, length);
    if (!into) {
        to->gone = 1;
        return;
    }
    memcpy(into, bytes, length);
    to->out.used += length;
}

static void put_text(Connection *to, const char *text) { put(to, text, (uint32_t)strlen(text)); }

static void put_number(Connection *to, uint32_t number, uint32_t base) {
    char digits[11];
    uint32_t at = sizeof digits;
    do digits[--at] = "0123456789abcdef"[number % base];
    while (number /= base);
    put(to, digits + at, sizeof digits - at);
}

static void put_head(Connection *to, const char *status, const char *type) {
    put_text(to, "HTTP/1.1 ");
    put_text(to, status);
    put_text(to, "\r\nContent-Type: ");
    put_text(to, type);
    put_text(to, to->keeps ? "\r\n" : "\r\nConnection: close\r\n");
}

static void put_answer(Connection *to, const char *status, const char *type, const char *bytes,
                       uint32_t length) {
    put_head(to, status, type);
    put_text(to, "Content-Length: ");
    put_number(to, length, 10);
    put_text(to, "\r\n\r\n");
    put(to, bytes, length);
}

static void put_chunk(Connection *to, const char *bytes, uint32_t length) {
    put_number(to, length, 16);
    put_text(to, "\r\n");
    put(to, bytes, length);
    put_text(to, "\r\n");
}

/* A header's value, without the spaces around it. Letters of the name are lower-case. */
static Span header(Span head, const char *name) {
    const char *at = head.at, *end = head.at + head.length;
    size_t length = strlen(name);
    while (at < end) {
        const char *next = memchr(at, '\n', (size_t)(end - at));
        const char *stop = next ? next : end;
        size_t i = 0;
        while (i < length && at + i < stop && (at[i] | 0x20) == name[i]) i++;
        if (i == length && at + i < stop && at[i] == ':') {
            const char *from = after_space(at + i + 1, stop);
            while (stop > from && (unsigned char)stop[-1] <= ' ') stop--;
            return (Span){from, (uint32_t)(stop - from)};
        }
        at = next ? next + 1 : end;
    }
    return (Span){0};
}

/* Whether the whole request is there. `problem` is the status if it cannot be served. */
static int has_request(Connection *from, const char **problem) {
    const Text *in = &from->in;
    const char *end = in->used ? memmem(in->bytes, in->used, "\r\n\r\n", 4) : NULL;
    *problem = NULL;
    if (!end) {
        if (in->used > MOST_HEAD) *problem = "431 Request Header Fields Too Large";
        return 0;
    }
    const char *line_end = memchr(in->bytes, '\r', in->used);
    const char *first = memchr(in->bytes, ' ', (size_t)(line_end - in->bytes));
    const char *second = first ? memchr(first + 1, ' ', (size_t)(line_end - first - 1)) : NULL;
    Span version = {second + 1, second ? (uint32_t)(line_end - second - 1) : 0};
    if (version.length != 8 || memcmp(version.at, "HTTP/1.", 7) != 0) {
        *problem = "400 Bad Request";
        return 0;
    }
    const Span head = {line_end + 1, (uint32_t)(end - line_end)};
    const Span length = header(head, "content-length"), connection = header(head, "connection");
    from->keeps = version.at[7] != '0' && !is_text(connection, "close");
    if (header(head, "transfer-encoding").length) *problem = "501 Not Implemented";
    uint32_t size = length.length ? number_of(length, UINT32_MAX) : 0;
    if (size > MOST_BODY)
        *problem = size == UINT32_MAX ? "400 Bad Request" : "413 Content Too Large";
    if (*problem) return 0;
    uint32_t before = (uint32_t)(end + 4 - in->bytes);
    if (in->used - before < size) {
        if (!from->promised && header(head, "expect").length)
            put_text(from, "HTTP/1.1 100 Continue\r\n\r\n");
        from->promised = 1;
        return 0;
    }
    from->method = (Span){in->bytes, (uint32_t)(first - in->bytes)};
    from->target = (Span){first + 1, (uint32_t)(second - first - 1)};
    from->body = (Span){end + 4, size};
    from->all = before + size;
    from->promised = 0;
    return 1;
}

/* The request has its answer: forget it, and look at the next one. */
static void end_request(Connection *of) {
    of->in.used -= of->all;
    memmove(of->in.bytes, of->in.bytes + of->all, of->in.used);
    of->all = 0;
    of->state = READS;
    of->quiet = 0;
}

/* Receives what has come. While a request waits for its answer, nothing may move it: then this only
 * looks whether the peer has closed, and so has gone. */
static void receive(Connection *from) {
    int looks = from->state != READS;
    char byte, *into = looks ? &byte : room(&from->in, 16 << 10);
    if (!into) {
        from->gone = 1;
        return;
    }
    const sock_vector all = {into, looks ? 1 : from->in.size - from->in.used};
    uint32_t length = 0;
    uint16_t flags;
    sock_errno code = sock_recv(from->fd, &all, 1, looks ? SOCK_PEEK : 0, &length, &flags);
    if (code == __WASI_ERRNO_AGAIN) return;
    if (code != 0) from->gone = 1;
    if (looks || length == 0) from->quiet = 1;
    if (length == 0) {
        from->keeps = 0;
        if (looks || !from->out.used) from->gone = 1;
    }
    if (!looks && !from->ends) from->in.used += length;
    from->since = now();
}

static void send_rest(Connection *to) {
    const sock_vector rest = {to->out.bytes + to->sent, to->out.used - to->sent};
    uint32_t sent = 0;
    if (!rest.length) return;
    sock_errno code = sock_send(to->fd, &rest, 1, 0, &sent);
    if (code == __WASI_ERRNO_AGAIN) return;
    if (code != 0) to->gone = 1;
    to->sent += sent;
    to->since = now();
    if (to->sent == to->out.used) to->sent = to->out.used = 0;
    if (to->out.used || to->state != READS || to->keeps) return;
    /* Closing at once would take the answer from a peer that still sends. */
    to->ends = 1;
    if (to->quiet || sock_shutdown(to->fd, SOCK_WRITE) != 0) to->gone = 1;
}

#endif
