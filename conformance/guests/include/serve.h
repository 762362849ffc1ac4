/* What a server of one thread needs: a listener, and a list of what it waits for. Define
 * MOST_CONNECTIONS before this header. */
#ifndef SERVE_H
#define SERVE_H

#include <errno.h>
#include <wasi/api.h>

#include "addresses.h"

/* Each connection's reading and writing, and the listener, standard input and a clock. */
#define MOST_POLLED (2 * MOST_CONNECTIONS + 3)

static __wasi_subscription_t asked[MOST_POLLED];
static __wasi_event_t events[MOST_POLLED];
static uint32_t asked_count;

/* Ends the guest unless the function of that name succeeded. */
static inline void must_sock(const char *function, sock_errno code) {
    if (code != 0) give_up(function, strerror((int)code));
}

static inline void set_nonblocking(sock_fd fd) {
    must_sock("fd_fdstat_set_flags", __wasi_fd_fdstat_set_flags(fd, __WASI_FDFLAGS_NONBLOCK));
}

/* A listener that does not block. Prints "listening on HOST:PORT", with the port that the system
 * chose if `port` is 0. */
static inline sock_fd listen_on(const char *host, const char *port) {
    static const uint32_t yes = 1;
    uint8_t bytes[16];
    const sock_address address = {bytes, parse_address(host, bytes)};
    uint32_t number = number_in(port, UINT16_MAX), type;
    sock_fd listener;
    if (!address.length) give_up(host, "not an IPv4 or IPv6 address");
    uint32_t family = address.length == 4 ? SOCK_INET4 : SOCK_INET6;
    must_sock("sock_open", sock_open(family, SOCK_STREAM, &listener));
    must_sock("sock_setsockopt",
              sock_setsockopt(listener, SOCK_LEVEL, SOCK_REUSEADDR, &yes, sizeof yes));
    must_sock("sock_bind", sock_bind(listener, &address, number));
    must_sock("sock_listen", sock_listen(listener, 128));
    set_nonblocking(listener);
    must_sock("sock_getlocaladdr", sock_getlocaladdr(listener, &address, &type, &number));
    print("listening on ");
    print(host);
    print(":");
    print_number(number, 1);
    print("\n");
    print_flush();
    return listener;
}

/* Whether the host gives no more sockets, until the server closes one. */
static int is_full;

/* Takes a connection that does not block. Gives 0 if there is none, or if its peer has gone. */
static inline int accept_from(sock_fd listener, sock_fd *accepted) {
    sock_errno code = sock_accept(listener, accepted);
    is_full = code == __WASI_ERRNO_MFILE || code == __WASI_ERRNO_NFILE;
    if (code != 0) return 0;
    set_nonblocking(*accepted);
    return 1;
}

static inline void close_socket(sock_fd fd) {
    close((int)fd);
    is_full = 0;
}

static inline void wait_for(uint8_t type, sock_fd fd, uint64_t name) {
    asked[asked_count] = (__wasi_subscription_t){.userdata = name, .u.tag = type};
    asked[asked_count++].u.u.fd_read.file_descriptor = fd;
}

static inline void wait_seconds(uint32_t seconds, uint64_t name) {
    asked[asked_count] = (__wasi_subscription_t){.userdata = name, .u.tag = __WASI_EVENTTYPE_CLOCK};
    asked[asked_count].u.u.clock.id = __WASI_CLOCKID_MONOTONIC;
    asked[asked_count++].u.u.clock.timeout = seconds * UINT64_C(1000000000);
}

/* Waits for the first of what was asked for, and forgets the list. Gives the number of events. */
static inline uint32_t wait_for_all(void) {
    __wasi_size_t happened = 0;
    must_sock("poll_oneoff", __wasi_poll_oneoff(asked, events, asked_count, &happened));
    asked_count = 0;
    return (uint32_t)happened;
}

#endif
