/* What every guest here needs besides wasi-nn: printing, and giving up with a reason.
 *
 * Not stdio, because printf with its floating point alone is 20 kB of machine code that an engine
 * has to compile before the guest starts. Define GUEST, the name in front of every error, before
 * this header. */
#ifndef GUEST_H
#define GUEST_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "wasi_nn.h"

/* The bytes apart from their fd, so that they are zeroed memory and no part of the module. */
static char printing[4096];
static uint32_t printing_used;
static int printing_fd = STDOUT_FILENO;

static inline void print_flush(void) {
    for (uint32_t done = 0; done < printing_used;) {
        ssize_t wrote = write(printing_fd, printing + done, printing_used - done);
        /* A closed pipe: nobody is left to be told why. */
        if (wrote <= 0) _Exit(1);
        done += (uint32_t)wrote;
    }
    printing_used = 0;
}

static inline void print_to(int fd) {
    print_flush();
    printing_fd = fd;
}

static inline void print_bytes(const char *bytes, size_t length) {
    while (length) {
        if (printing_used == sizeof printing) print_flush();
        size_t room = sizeof printing - printing_used;
        size_t part = length < room ? length : room;
        memcpy(printing + printing_used, bytes, part);
        printing_used += (uint32_t)part;
        bytes += part;
        length -= part;
    }
}

static inline void print(const char *text) { print_bytes(text, strlen(text)); }

/* At least `width` digits, with zeros in front. */
static inline void print_number(uint64_t number, int width) {
    char digits[20];
    int at = sizeof digits;
    do digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) || (int)sizeof digits - at < width);
    print_bytes(digits + at, sizeof digits - (size_t)at);
}

/* As printf("%.*f") prints an f32, ties to even, for up to 9 decimals: such a product is exact in a
 * double. From a thousand million on, a decimal exponent follows. */
static inline void print_f32(float value, int decimals) {
    if (isnan(value)) {
        print("nan");
        return;
    }
    if (signbit(value)) print("-");
    double size = fabs((double)value);
    if (isinf(size)) {
        print("inf");
        return;
    }
    int exponent = 0;
    while (size >= 1e9) size /= 10, exponent++;
    uint64_t unit = 1;
    for (int i = 0; i < decimals; i++) unit *= 10;
    double scaled = size * (double)unit;
    uint64_t whole = (uint64_t)scaled;
    double rest = scaled - (double)whole;
    if (rest > 0.5 || (rest == 0.5 && whole % 2)) whole++;
    print_number(whole / unit, 1);
    print(".");
    print_number(whole % unit, decimals);
    if (exponent) {
        print("e");
        print_number((uint64_t)exponent, 1);
    }
}

/* Prints "GUEST: what: why" to stderr, after what stdout still has to get. */
static inline void complain(const char *what, const char *why) {
    print_to(STDERR_FILENO);
    print(GUEST ": ");
    print(what);
    print(": ");
    print(why);
    print("\n");
    print_to(STDOUT_FILENO);
}

static inline _Noreturn void give_up(const char *what, const char *why) {
    complain(what, why);
    _Exit(1);
}

/* Status 2, as shells and most tools have it for a wrong command line. */
static inline _Noreturn void give_usage(const char *usage) {
    print_to(STDERR_FILENO);
    print("usage: ");
    print(usage);
    print("\n");
    print_flush();
    _Exit(2);
}

/* Ends the guest unless the wasi-nn function of that name succeeded. */
static inline void must(const char *function, nn_errno code) {
    if (code != NN_SUCCESS) give_up(function, nn_errno_name(code));
}

/* A whole decimal number up to `most`; the text has to be nothing else. */
static inline uint32_t number_in(const char *text, uint32_t most) {
    uint64_t number = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9' && number <= most; at++) number = number * 10 + (*at - '0');
    if (at == text || *at || number > most) give_up(text, "not a number, or too large");
    return (uint32_t)number;
}

#endif
