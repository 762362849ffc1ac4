/* Addresses as text. */
#ifndef ADDRESSES_H
#define ADDRESSES_H

#include "guest.h"
#include "wasmedge_socket.h"

static inline int hex_digit(char byte) {
    const char *digits = "0123456789abcdef", *at = byte ? strchr(digits, byte) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* Four numbers with dots, or 0. */
static inline uint32_t parse_ipv4(const char *text, uint8_t *bytes) {
    for (uint32_t i = 0; i < 4; i++) {
        char *end;
        if (*text < '0' || *text > '9') return 0;
        unsigned long number = strtoul(text, &end, 10);
        if (number > 255 || *end != (i < 3 ? '.' : 0)) return 0;
        bytes[i] = (uint8_t)number;
        text = end + 1;
    }
    return 4;
}

/* Groups of hexadecimal digits with colons, of which one may be double; or 0. */
static inline uint32_t parse_ipv6(const char *text, uint8_t *bytes) {
    uint32_t used = 0, gap = 16;
    memset(bytes, 0, 16);
    if (text[0] == ':' && text[1] == ':') gap = 0, text += 2;
    while (*text) {
        uint32_t number = 0, digits = 0;
        for (; hex_digit(*text) >= 0; text++, digits++)
            number = number << 4 | (uint32_t)hex_digit(*text);
        if (!digits || digits > 4 || used == 16) return 0;
        bytes[used++] = (uint8_t)(number >> 8);
        bytes[used++] = (uint8_t)number;
        if (!*text) break;
        if (*text++ != ':' || !*text) return 0;
        if (*text == ':') {
            if (gap < 16) return 0;
            gap = used, text++;
        }
    }
    if (gap == 16) return used == 16 ? 16 : 0;
    memmove(bytes + 16 - (used - gap), bytes + gap, used - gap);
    memset(bytes + gap, 0, 16 - used);
    return 16;
}

/* An address of either family into 16 bytes. Gives its length, or 0. */
static inline uint32_t parse_address(const char *text, uint8_t *bytes) {
    uint32_t length = parse_ipv4(text, bytes);
    return length ? length : parse_ipv6(text, bytes);
}

/* An IPv6 address with all its groups. */
static inline void print_address(const uint8_t *bytes, uint32_t length) {
    for (uint32_t i = 0; i < length; i += length == 4 ? 1 : 2) {
        if (i) print(length == 4 ? "." : ":");
        if (length == 4) {
            print_number(bytes[i], 1);
            continue;
        }
        uint32_t group = (uint32_t)bytes[i] << 8 | bytes[i + 1];
        for (int shift = 12; shift >= 0; shift -= 4)
            if (shift == 0 || group >> shift)
                print_bytes(&"0123456789abcdef"[group >> shift & 15], 1);
    }
}

#endif
