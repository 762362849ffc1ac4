/* Makes the socket calls that its arguments say, and prints a line for each one: the step, the
 * errno of preview 1 in decimal, and the results if the errno is 0.
 *
 * An argument is a step, whose words have spaces between them. A step with the ending _v2 calls the
 * function of version 2. Sockets have the numbers of a table, in the order in which `open` and
 * `accept` succeed: the first is 0. "=7" is the descriptor 7 itself. HOST is an IPv4 or IPv6
 * address, or x and the bytes in hexadecimal. PORT is a number, or @S for a socket's local port.
 *
 *   open FAMILY TYPE              1 or 2 each
 *   bind S HOST PORT
 *   listen S BACKLOG
 *   accept S [FLAGS]              FLAGS only in version 2
 *   connect S HOST PORT
 *   send S TEXT [FLAGS]           prints how many bytes
 *   send_to S HOST PORT TEXT [FLAGS]
 *   recv S MOST [FLAGS]           prints how many bytes, flags, the bytes
 *   recv_from S MOST [FLAGS]      also the address; in version 2 also the family and the port
 *   fill S                        sends until an errno
 *   drain S                       receives until an errno or the end, and prints how many bytes
 *   shutdown S HOW
 *   get S NAME SIZE               prints the size and the option in hexadecimal
 *   set S NAME HEX
 *   local S, peer S               prints the type or the family, the address and the port
 *   resolve NODE SERVICE MOST FAMILY   prints how many, and each family, address and port
 *   read S MOST, write S TEXT, close S, renumber S S, tell S, number S
 *   stat S                        prints the file type, the flags, whether it may read and write
 *   flags S FLAGS                 sets the flags; 4 is non-blocking
 *   poll WHAT...                  rS (readable), wS (writable) or cMILLISECONDS; prints each
 *                                 event's place in the list, its errno and its flags
 *
 * NODE and SERVICE may be "-", for no bytes. */
#define GUEST "sockets"
#include <wasi/api.h>

#include "addresses.h"

#define MOST_SOCKETS 2048
#define MOST_BYTES 65536
#define MOST_POLLED 64
#define MOST_NAMES 16

static sock_fd sockets[MOST_SOCKETS];
static uint32_t socket_count;
static uint8_t bytes[MOST_BYTES];
static char *rest;

static int has_more(void) { return rest[strspn(rest, " ")] != 0; }

static char *word(void) {
    if (!has_more()) give_up("step", "a word is missing");
    rest += strspn(rest, " ");
    char *from = rest;
    rest += strcspn(rest, " ");
    if (*rest) *rest++ = 0;
    return from;
}

static uint32_t number(void) { return number_in(word(), UINT32_MAX); }
static uint32_t number_or_0(void) { return has_more() ? number() : 0; }

static sock_fd socket_of(const char *text) {
    if (*text == '=') return number_in(text + 1, UINT32_MAX);
    uint32_t place = number_in(text, UINT32_MAX);
    if (place >= socket_count) give_up(text, "no such socket");
    return sockets[place];
}

static sock_fd sock(void) { return socket_of(word()); }

static uint32_t from_hex(const char *text, uint8_t *into, uint32_t most) {
    uint32_t length = (uint32_t)strlen(text) / 2;
    if (length > most) give_up(text, "too long");
    for (uint32_t i = 0; i < length; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0) give_up(text, "not hexadecimal");
        into[i] = (uint8_t)(high << 4 | low);
    }
    return length;
}

/* HOST, as the address of a version. */
static const sock_address *host(int v2) {
    static sock_storage storage;
    static sock_address address;
    char *text = word();
    storage = (sock_storage){0};
    address.bytes = storage.address;
    if (*text == 'x') {
        address.length = from_hex(text + 1, storage.address, sizeof storage.address);
        return &address;
    }
    address.length = parse_address(text, storage.address);
    if (!address.length) give_up(text, "not an address");
    if (v2) {
        storage.family = address.length == 4 ? SOCK_INET4 : SOCK_INET6;
        address = (sock_address){&storage, sizeof storage};
    }
    return &address;
}

static uint32_t port(void) {
    const char *text = word();
    if (*text != '@') return number_in(text, UINT32_MAX);
    uint8_t ignored[16];
    const sock_address address = {ignored, sizeof ignored};
    uint32_t type, found;
    if (sock_getlocaladdr(socket_of(text + 1), &address, &type, &found) != 0)
        give_up(text, "has no local port");
    return found;
}

static void also(uint64_t value) {
    print(" ");
    print_number(value, 1);
}

static void result(sock_errno code) { also(code); }

static void keep(sock_errno code, sock_fd made) {
    if (code == 0) {
        if (socket_count == MOST_SOCKETS) give_up("step", "too many sockets");
        sockets[socket_count++] = made;
    }
    result(code);
}

static void print_received(uint32_t length, uint16_t flags) {
    also(length);
    also(flags);
    print(" ");
    for (uint32_t i = 0; i < length; i++)
        print_bytes(bytes[i] > ' ' && bytes[i] < 127 ? (const char *)&bytes[i] : ".", 1);
}

static void receive(int v2, int with_address) {
    sock_fd fd = sock();
    uint32_t most = number(), flags = number_or_0(), length = 0;
    uint16_t got = 0, from = 0;
    if (most > MOST_BYTES) give_up("step", "too many bytes");
    /* In two pieces, so that a host has to heed the list. */
    const sock_vector vectors[] = {{bytes, most / 2}, {bytes + most / 2, most - most / 2}};
    sock_storage storage = {0};
    const sock_address address = {v2 ? (void *)&storage : storage.address, v2 ? 128 : 16};
    sock_errno code;
    if (!with_address)
        code = (v2 ? sock_recv_v2 : sock_recv)(fd, vectors, 2, flags, &length, &got);
    else if (v2)
        code = sock_recv_from_v2(fd, vectors, 2, &address, flags, &from, &length, &got);
    else
        code = sock_recv_from(fd, vectors, 2, &address, flags, &length, &got);
    result(code);
    if (code != 0) return;
    print_received(length, got);
    if (!with_address) return;
    print(" ");
    print_address(storage.address, v2 && storage.family == SOCK_INET6 ? 16 : 4);
    if (!v2) return;
    also(storage.family);
    also(from);
}

static void send_text(int v2, int with_address) {
    sock_fd fd = sock();
    const sock_address *to = with_address ? host(v2) : NULL;
    uint32_t at = with_address ? port() : 0, sent = 0;
    char *text = word();
    const sock_vector vector = {text, (uint32_t)strlen(text)};
    uint32_t flags = number_or_0();
    sock_errno code =
        to ? (v2 ? sock_send_to_v2 : sock_send_to)(fd, &vector, 1, to, at, flags, &sent)
           : (v2 ? sock_send_v2 : sock_send)(fd, &vector, 1, flags, &sent);
    result(code);
    if (code == 0) also(sent);
}

static void fill(void) {
    sock_fd fd = sock();
    const sock_vector vector = {bytes, MOST_BYTES};
    uint32_t sent = 0;
    sock_errno code;
    while ((code = sock_send(fd, &vector, 1, 0, &sent)) == 0) continue;
    result(code);
}

static void drain(void) {
    sock_fd fd = sock();
    const sock_vector vector = {bytes, MOST_BYTES};
    uint32_t length = 0;
    uint64_t total = 0;
    uint16_t got;
    sock_errno code;
    while ((code = sock_recv(fd, &vector, 1, 0, &length, &got)) == 0 && length) total += length;
    result(code);
    also(total);
}

static void where(int v2, int peer) {
    sock_fd fd = sock();
    sock_storage storage = {0};
    const sock_address address = {v2 ? (void *)&storage : storage.address, v2 ? 128 : 16};
    uint32_t type = 0, found = 0;
    sock_errno code;
    if (v2) {
        code = (peer ? sock_getpeeraddr_v2 : sock_getlocaladdr_v2)(fd, &address, &found);
        type = storage.family;
    } else {
        code = (peer ? sock_getpeeraddr : sock_getlocaladdr)(fd, &address, &type, &found);
    }
    result(code);
    if (code != 0) return;
    also(type);
    print(" ");
    print_address(storage.address, type == (v2 ? SOCK_INET6 : 6) ? 16 : 4);
    also(found);
}

static void get(void) {
    sock_fd fd = sock();
    uint32_t name = number(), size = number();
    if (size > MOST_BYTES) give_up("step", "too many bytes");
    sock_errno code = sock_getsockopt(fd, SOCK_LEVEL, name, bytes, &size);
    result(code);
    if (code != 0) return;
    also(size);
    print(" ");
    for (uint32_t i = 0; i < size && i < MOST_BYTES; i++) {
        print_bytes(&"0123456789abcdef"[bytes[i] >> 4], 1);
        print_bytes(&"0123456789abcdef"[bytes[i] & 15], 1);
    }
}

static void set(void) {
    sock_fd fd = sock();
    uint32_t name = number(), size = from_hex(word(), bytes, MOST_BYTES);
    result(sock_setsockopt(fd, SOCK_LEVEL, name, bytes, size));
}

static void resolve(void) {
    static sock_info infos[MOST_NAMES];
    static sock_name names[MOST_NAMES];
    static uint8_t places[MOST_NAMES][26];
    char *node = word(), *service = word();
    uint32_t most = number(), count = 0;
    const sock_info hints = {.family = (uint8_t)number(), .type = SOCK_STREAM};
    if (most > MOST_NAMES) give_up("step", "too many results");
    for (uint32_t i = 0; i < MOST_NAMES; i++) {
        names[i] = (sock_name){0, sizeof places[i], places[i]};
        infos[i] = (sock_info){.name = &names[i], .next = i + 1 < most ? &infos[i + 1] : NULL};
    }
    sock_info *first = infos;
    sock_errno code = sock_getaddrinfo(node, *node == '-' ? 0 : (uint32_t)strlen(node), service,
                                       *service == '-' ? 0 : (uint32_t)strlen(service), &hints,
                                       &first, most, &count);
    result(code);
    if (code != 0) return;
    also(count);
    for (uint32_t i = 0; i < count && i < most; i++) {
        int six = names[i].family == SOCK_INET6;
        also(infos[i].family);
        print(" ");
        print_address(places[i] + (six ? 6 : 2), six ? 16 : 4);
        also((uint64_t)places[i][0] << 8 | places[i][1]);
    }
}

static void read_or_write(int reads) {
    sock_fd fd = sock();
    __wasi_size_t length = 0;
    __wasi_errno_t code;
    if (reads) {
        uint32_t most = number();
        if (most > MOST_BYTES) give_up("step", "too many bytes");
        const __wasi_iovec_t vector = {bytes, most};
        code = __wasi_fd_read(fd, &vector, 1, &length);
    } else {
        const char *text = word();
        const __wasi_ciovec_t vector = {(const uint8_t *)text, strlen(text)};
        code = __wasi_fd_write(fd, &vector, 1, &length);
    }
    result(code);
    if (code == 0 && reads) print_received((uint32_t)length, 0);
    else if (code == 0) also(length);
}

static void stat_of(void) {
    __wasi_fdstat_t status;
    __wasi_errno_t code = __wasi_fd_fdstat_get(sock(), &status);
    result(code);
    if (code != 0) return;
    also(status.fs_filetype);
    also(status.fs_flags);
    also(!!(status.fs_rights_base & __WASI_RIGHTS_FD_READ));
    also(!!(status.fs_rights_base & __WASI_RIGHTS_FD_WRITE));
}

static void poll(void) {
    static __wasi_subscription_t asked[MOST_POLLED];
    static __wasi_event_t events[MOST_POLLED];
    __wasi_event_t *by_place[MOST_POLLED] = {0};
    uint32_t count = 0;
    for (; has_more(); count++) {
        const char *what = word();
        if (count == MOST_POLLED) give_up("step", "too many subscriptions");
        __wasi_subscription_t *one = &asked[count];
        *one = (__wasi_subscription_t){.userdata = count};
        if (*what == 'c') {
            one->u.tag = __WASI_EVENTTYPE_CLOCK;
            one->u.u.clock.id = __WASI_CLOCKID_MONOTONIC;
            one->u.u.clock.timeout = number_in(what + 1, UINT32_MAX) * UINT64_C(1000000);
        } else {
            one->u.tag = *what == 'r' ? __WASI_EVENTTYPE_FD_READ : __WASI_EVENTTYPE_FD_WRITE;
            one->u.u.fd_read.file_descriptor = socket_of(what + 1);
        }
    }
    __wasi_size_t happened = 0;
    __wasi_errno_t code = __wasi_poll_oneoff(asked, events, count, &happened);
    result(code);
    if (code != 0) return;
    for (uint32_t i = 0; i < happened && i < count; i++)
        if (events[i].userdata < count) by_place[events[i].userdata] = &events[i];
    for (uint32_t i = 0; i < count; i++) {
        const __wasi_event_t *event = by_place[i];
        if (!event) continue;
        also(i);
        print(":");
        print_number(event->error, 1);
        print(":");
        print_number(event->type == __WASI_EVENTTYPE_CLOCK ? 0 : event->fd_readwrite.flags, 1);
    }
}

static void call(const char *name) {
    size_t length = strlen(name);
    int v2 = length > 3 && strcmp(name + length - 3, "_v2") == 0;
    if (v2) length -= 3;
#define IS(text) (length == sizeof text - 1 && memcmp(name, text, length) == 0)
    if (IS("open")) {
        uint32_t family = number(), type = number();
        sock_fd made = 0;
        sock_errno code = (v2 ? sock_open_v2 : sock_open)(family, type, &made);
        keep(code, made);
    } else if (IS("bind") || IS("connect")) {
        int binds = IS("bind");
        sock_fd fd = sock();
        const sock_address *address = host(v2);
        uint32_t at = port();
        result(binds ? (v2 ? sock_bind_v2 : sock_bind)(fd, address, at)
                     : (v2 ? sock_connect_v2 : sock_connect)(fd, address, at));
    } else if (IS("listen")) {
        sock_fd fd = sock();
        result((v2 ? sock_listen_v2 : sock_listen)(fd, number()));
    } else if (IS("accept")) {
        sock_fd fd = sock(), made = 0;
        sock_errno code = v2 ? sock_accept_v2(fd, number_or_0(), &made) : sock_accept(fd, &made);
        keep(code, made);
    } else if (IS("send")) send_text(v2, 0);
    else if (IS("send_to")) send_text(v2, 1);
    else if (IS("recv")) receive(v2, 0);
    else if (IS("recv_from")) receive(v2, 1);
    else if (IS("local")) where(v2, 0);
    else if (IS("peer")) where(v2, 1);
    else if (v2) give_up("no such step", name);
    else if (IS("fill")) fill();
    else if (IS("drain")) drain();
    else if (IS("get")) get();
    else if (IS("set")) set();
    else if (IS("resolve")) resolve();
    else if (IS("read")) read_or_write(1);
    else if (IS("write")) read_or_write(0);
    else if (IS("stat")) stat_of();
    else if (IS("tell")) result(__wasi_fd_tell(sock(), &(__wasi_filesize_t){0}));
    else if (IS("poll")) poll();
    else if (IS("number")) also(sock());
    else if (IS("close")) result(__wasi_fd_close(sock()));
    else if (IS("shutdown")) {
        sock_fd fd = sock();
        result(sock_shutdown(fd, number()));
    } else if (IS("flags")) {
        sock_fd fd = sock();
        result(__wasi_fd_fdstat_set_flags(fd, (__wasi_fdflags_t)number()));
    } else if (IS("renumber")) {
        sock_fd from = sock();
        result(__wasi_fd_renumber(from, sock()));
    } else give_up("no such step", name);
}

int main(int count, char **arguments) {
    for (int i = 1; i < count; i++) {
        rest = arguments[i];
        const char *name = word();
        /* What the transcript says is safe should the call end the guest. */
        print(name);
        print_flush();
        call(name);
        if (has_more()) give_up(name, "too many words");
        print("\n");
        print_flush();
    }
    return 0;
}
