/* Sends back what it receives, on any number of TCP connections at the same time.
 *
 *   echo-server [--connections N] [--stdin] HOST PORT
 *
 * PORT 0 is a port that the system chooses; the first line says which. The server ends after N
 * connections. With --stdin it also ends when standard input says "quit", or ends. */
#define GUEST "echo-server"
#define MOST_CONNECTIONS 1024
#include "serve.h"

#define USAGE "echo-server [--connections N] [--stdin] HOST PORT"

enum { LISTENER = MOST_CONNECTIONS, INPUT };

/* It reads while there is nothing to send, so a slow reader slows its own sender. */
typedef struct {
    sock_fd fd;
    uint32_t used, sent;
    int closed;
    char bytes[4096];
} Connection;

static Connection *connections[MOST_CONNECTIONS];
static uint32_t live, ended;

static void accept_all(sock_fd listener) {
    sock_fd fd;
    while (live < MOST_CONNECTIONS && accept_from(listener, &fd)) {
        Connection *made = malloc(sizeof *made);
        if (!made) give_up("connection", "out of memory");
        made->fd = fd;
        made->used = made->sent = 0;
        made->closed = 0;
        connections[live++] = made;
    }
}

static void send_rest(Connection *one) {
    const sock_vector rest = {one->bytes + one->sent, one->used - one->sent};
    uint32_t sent = 0;
    sock_errno code = sock_send(one->fd, &rest, 1, 0, &sent);
    if (code == 0) one->sent += sent;
    else if (code != __WASI_ERRNO_AGAIN) one->closed = 1;
}

static void receive(Connection *one) {
    const sock_vector all = {one->bytes, sizeof one->bytes};
    uint32_t length = 0;
    uint16_t flags;
    sock_errno code = sock_recv(one->fd, &all, 1, 0, &length, &flags);
    if (code == __WASI_ERRNO_AGAIN) return;
    if (code != 0 || length == 0) {
        one->closed = 1;
        return;
    }
    one->used = length;
    one->sent = 0;
    /* There is mostly room: this spares a poll. */
    send_rest(one);
}

static void remove_closed(void) {
    for (uint32_t i = live; i-- > 0;) {
        if (!connections[i]->closed) continue;
        close_socket(connections[i]->fd);
        free(connections[i]);
        connections[i] = connections[--live];
        ended++;
    }
}

static int is_told_to_quit(void) {
    char text[64];
    ssize_t got = read(STDIN_FILENO, text, sizeof text);
    return got <= 0 || (got >= 4 && memcmp(text, "quit", 4) == 0);
}

int main(int count, char **arguments) {
    uint32_t most = UINT32_MAX;
    int i = 1, listens_to_input = 0;
    for (; i < count && arguments[i][0] == '-'; i++) {
        if (strcmp(arguments[i], "--stdin") == 0) listens_to_input = 1;
        else if (strcmp(arguments[i], "--connections") == 0 && i + 1 < count)
            most = number_in(arguments[++i], UINT32_MAX);
        else give_usage(USAGE);
    }
    if (count - i != 2) give_usage(USAGE);
    sock_fd listener = listen_on(arguments[i], arguments[i + 1]);
    while (ended < most) {
        if (live < MOST_CONNECTIONS && !is_full)
            wait_for(__WASI_EVENTTYPE_FD_READ, listener, LISTENER);
        if (listens_to_input) wait_for(__WASI_EVENTTYPE_FD_READ, STDIN_FILENO, INPUT);
        for (uint32_t n = 0; n < live; n++) {
            int sends = connections[n]->sent < connections[n]->used;
            wait_for(sends ? __WASI_EVENTTYPE_FD_WRITE : __WASI_EVENTTYPE_FD_READ,
                     connections[n]->fd, n);
        }
        uint32_t happened = wait_for_all();
        for (uint32_t n = 0; n < happened; n++) {
            uint64_t name = events[n].userdata;
            if (name == LISTENER) accept_all(listener);
            else if (name == INPUT && is_told_to_quit()) return 0;
            else if (name < MOST_CONNECTIONS && events[n].type == __WASI_EVENTTYPE_FD_WRITE)
                send_rest(connections[name]);
            else if (name < MOST_CONNECTIONS) receive(connections[name]);
        }
        remove_closed();
    }
    return 0;
}
