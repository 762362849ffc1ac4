/* Finds values in JSON. It does not check the text: the host reads again what it is given. */
#ifndef JSON_H
#define JSON_H

#include "guest.h"

/* A piece of a text. It is empty if nothing was found. */
typedef struct {
    const char *at;
    uint32_t length;
} Span;

static const char *after_space(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n')) at++;
    return at;
}

/* Behind the quote that ends a string, or NULL. */
static const char *after_string(const char *at, const char *end) {
    for (at++; at < end; at++) {
        if (*at == '\\') at++;
        else if (*at == '"') return at + 1;
    }
    return NULL;
}

/* Behind a value, or NULL if it has no end. */
static const char *after_value(const char *at, const char *end) {
    if (at == end) return NULL;
    if (*at == '"') return after_string(at, end);
    if (*at != '{' && *at != '[') {
        while (at < end && !strchr(",]} \t\r\n", *at)) at++;
        return at;
    }
    uint32_t depth = 0;
    while (at < end) {
        if (*at == '"') {
            if (!(at = after_string(at, end))) return NULL;
            continue;
        }
        if (*at == '{' || *at == '[') depth++;
        if ((*at == '}' || *at == ']') && --depth == 0) return at + 1;
        at++;
    }
    return NULL;
}

/* The value of a key in an object. */
static Span value_of(Span object, const char *key) {
    const char *end = object.at + object.length, *at = after_space(object.at, end);
    size_t length = strlen(key);
    if (at == end || *at != '{') return (Span){0};
    for (at++;; at++) {
        at = after_space(at, end);
        if (at == end || *at != '"') return (Span){0};
        const char *name = at + 1;
        if (!(at = after_string(at, end))) return (Span){0};
        int is_it = (size_t)(at - 1 - name) == length && memcmp(name, key, length) == 0;
        at = after_space(at, end);
        if (at == end || *at != ':') return (Span){0};
        const char *value = after_space(at + 1, end);
        if (!(at = after_value(value, end))) return (Span){0};
        if (is_it) return (Span){value, (uint32_t)(at - value)};
        at = after_space(at, end);
        if (at == end || *at != ',') return (Span){0};
    }
}

static int is_text(Span span, const char *text) {
    return span.length == strlen(text) && memcmp(span.at, text, span.length) == 0;
}

/* A whole number, or `otherwise` if it is not one. */
static uint32_t number_of(Span span, uint32_t otherwise) {
    uint64_t number = 0;
    if (!span.length || span.length > 9) return otherwise;
    for (uint32_t i = 0; i < span.length; i++) {
        if (span.at[i] < '0' || span.at[i] > '9') return otherwise;
        number = number * 10 + (uint64_t)(span.at[i] - '0');
    }
    return (uint32_t)number;
}

#endif
