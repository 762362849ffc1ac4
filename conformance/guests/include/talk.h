/* A conversation as the list of messages that chat templates take, and its next line. */
#ifndef TALK_H
#define TALK_H

#include "guest.h"

#define MOST_TALK (1 << 20)

/* The conversation as JSON, without its closing bracket. */
static char talk[MOST_TALK];
static uint32_t talk_used;
static char line[MOST_TALK / 8];

static inline void add(char byte) {
    if (talk_used == sizeof talk - 1) give_up("the conversation", "too long");
    talk[talk_used++] = byte;
}

static inline void add_text(const char *text) {
    while (*text) add(*text++);
}

static inline void add_quoted(const char *text, uint32_t length) {
    add('"');
    for (uint32_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte == '"' || byte == '\\') add('\\');
        if (byte < 0x20) {
            add_text("\\u00");
            add((char)('0' + (byte >> 4)));
            byte = (unsigned char)"0123456789abcdef"[byte & 15];
        }
        add((char)byte);
    }
    add('"');
}

static inline void say(const char *role, const char *text, uint32_t length) {
    add_text(talk_used ? ",{\"role\":\"" : "[{\"role\":\"");
    add_text(role);
    add_text("\",\"content\":");
    add_quoted(text, length);
    add('}');
}

/* A line without its end, or -1 at the end of the input. */
static inline int read_line(void) {
    uint32_t length = 0;
    char byte;
    for (;;) {
        ssize_t got = read(STDIN_FILENO, &byte, 1);
        if (got < 0) give_up("standard input", "cannot be read");
        if (got == 0) return length ? (int)length : -1;
        if (byte == '\n') return (int)length;
        if (byte == '\r') continue;
        if (length == sizeof line) give_up("the line", "too long");
        line[length++] = byte;
    }
}

#endif
