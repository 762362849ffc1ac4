/* WasmEdge's sockets: functions beside those of WASI preview 1, in the same import module.
 *
 * Every function gives an errno of preview 1 (0 is success). Version 1 has the plain names. Version
 * 2 has names that end with _v2, buffers of 128 bytes for addresses, and other parameters in
 * sock_accept, sock_recv_from, sock_getlocaladdr and sock_getpeeraddr. Ports are numbers in host
 * order. Source: WasmEdge, lib/host/wasi/wasimodule.cpp and thirdparty/wasi/api.hpp. */
#ifndef WASMEDGE_SOCKET_H
#define WASMEDGE_SOCKET_H

#include <stdint.h>

typedef uint32_t sock_fd;
typedef uint32_t sock_errno;

enum { SOCK_UNSPEC = 0, SOCK_INET4 = 1, SOCK_INET6 = 2 };
enum { SOCK_ANY = 0, SOCK_DGRAM = 1, SOCK_STREAM = 2 };
enum { SOCK_PEEK = 1, SOCK_WAITALL = 2 }; /* flags of recv */
enum { SOCK_TRUNCATED = 1 };              /* flag that recv gives */
enum { SOCK_READ = 1, SOCK_WRITE = 2 };   /* what shutdown ends */
enum { SOCK_LEVEL = 0 };                  /* the only level of options */
enum {
    SOCK_REUSEADDR = 0,
    SOCK_TYPE = 1,
    SOCK_ERROR = 2, /* an errno of preview 1; reading it clears it */
    SOCK_SNDBUF = 5,
    SOCK_RCVBUF = 6,
    SOCK_KEEPALIVE = 7,
    SOCK_LINGER = 9,    /* two i32: whether, and seconds */
    SOCK_RCVTIMEO = 11, /* two i64: seconds and microseconds */
    SOCK_SNDTIMEO = 12,
    SOCK_ACCEPTCONN = 13,
};

/* An address: 4 bytes are IPv4, 16 are IPv6, and 128 (version 2) are a sock_storage. */
typedef struct {
    void *bytes;
    uint32_t length;
} sock_address;

typedef struct {
    uint16_t family;
    uint8_t address[126];
} sock_storage;

typedef struct {
    void *bytes;
    uint32_t length;
} sock_vector;

/* A result of sock_getaddrinfo. The guest makes the list with all its buffers, and the host fills
 * it. `bytes` of an IPv4 address are the port (big-endian), 4 bytes and 8 zeros; of an IPv6 address
 * the port, the flow, 16 bytes and the scope, 26 in all. */
typedef struct {
    uint8_t family;
    uint32_t length;
    uint8_t *bytes;
} sock_name;

typedef struct sock_info {
    uint16_t flags;
    uint8_t family;
    uint8_t type;
    uint8_t protocol;
    uint32_t name_length;
    sock_name *name;
    char *canonical;
    uint32_t canonical_length;
    struct sock_info *next;
} sock_info;

_Static_assert(sizeof(sock_storage) == 128, "the ABI's storage takes 128 bytes");
_Static_assert(sizeof(sock_name) == 12, "the ABI's name takes 12 bytes");
_Static_assert(sizeof(sock_info) == 28, "the ABI's result takes 28 bytes");

#define SOCK_IMPORT(name)                                                                          \
    __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name))) sock_errno name

SOCK_IMPORT(sock_open)(uint32_t family, uint32_t type, sock_fd *opened);
SOCK_IMPORT(sock_bind)(sock_fd fd, const sock_address *address, uint32_t port);
SOCK_IMPORT(sock_listen)(sock_fd fd, uint32_t backlog);
SOCK_IMPORT(sock_accept)(sock_fd fd, sock_fd *accepted);
SOCK_IMPORT(sock_connect)(sock_fd fd, const sock_address *address, uint32_t port);
SOCK_IMPORT(sock_recv)(sock_fd fd, const sock_vector *vectors, uint32_t count, uint32_t flags,
                       uint32_t *length, uint16_t *got);
SOCK_IMPORT(sock_recv_from)(sock_fd fd, const sock_vector *vectors, uint32_t count,
                            const sock_address *address, uint32_t flags, uint32_t *length,
                            uint16_t *got);
SOCK_IMPORT(sock_send)(sock_fd fd, const sock_vector *vectors, uint32_t count, uint32_t flags,
                       uint32_t *length);
SOCK_IMPORT(sock_send_to)(sock_fd fd, const sock_vector *vectors, uint32_t count,
                          const sock_address *address, uint32_t port, uint32_t flags,
                          uint32_t *length);
SOCK_IMPORT(sock_shutdown)(sock_fd fd, uint32_t how);
SOCK_IMPORT(sock_getsockopt)(sock_fd fd, uint32_t level, uint32_t name, void *value,
                             uint32_t *size);
SOCK_IMPORT(sock_setsockopt)(sock_fd fd, uint32_t level, uint32_t name, const void *value,
                             uint32_t size);
/* The type is 4 or 6. */
SOCK_IMPORT(sock_getlocaladdr)(sock_fd fd, const sock_address *address, uint32_t *type,
                               uint32_t *port);
SOCK_IMPORT(sock_getpeeraddr)(sock_fd fd, const sock_address *address, uint32_t *type,
                              uint32_t *port);
SOCK_IMPORT(sock_getaddrinfo)(const char *node, uint32_t node_length, const char *service,
                              uint32_t service_length, const sock_info *hints, sock_info **first,
                              uint32_t most, uint32_t *count);

SOCK_IMPORT(sock_open_v2)(uint32_t family, uint32_t type, sock_fd *opened);
SOCK_IMPORT(sock_bind_v2)(sock_fd fd, const sock_address *address, uint32_t port);
SOCK_IMPORT(sock_listen_v2)(sock_fd fd, uint32_t backlog);
SOCK_IMPORT(sock_accept_v2)(sock_fd fd, uint32_t flags, sock_fd *accepted);
SOCK_IMPORT(sock_connect_v2)(sock_fd fd, const sock_address *address, uint32_t port);
SOCK_IMPORT(sock_recv_v2)(sock_fd fd, const sock_vector *vectors, uint32_t count, uint32_t flags,
                          uint32_t *length, uint16_t *got);
SOCK_IMPORT(sock_recv_from_v2)(sock_fd fd, const sock_vector *vectors, uint32_t count,
                               const sock_address *address, uint32_t flags, uint16_t *port,
                               uint32_t *length, uint16_t *got);
SOCK_IMPORT(sock_send_v2)(sock_fd fd, const sock_vector *vectors, uint32_t count, uint32_t flags,
                          uint32_t *length);
SOCK_IMPORT(sock_send_to_v2)(sock_fd fd, const sock_vector *vectors, uint32_t count,
                             const sock_address *address, uint32_t port, uint32_t flags,
                             uint32_t *length);
SOCK_IMPORT(sock_getlocaladdr_v2)(sock_fd fd, const sock_address *address, uint32_t *port);
SOCK_IMPORT(sock_getpeeraddr_v2)(sock_fd fd, const sock_address *address, uint32_t *port);

#endif
