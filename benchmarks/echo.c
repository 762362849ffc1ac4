/* The native counterpart of the guest echo-server: one thread, poll, and sockets that do not
 * block. Prints its port, and ends when its standard input does. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 64 };

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    struct pollfd watched[MOST] = {{.fd = socket(AF_INET, SOCK_STREAM, 0), .events = POLLIN},
                                   {.fd = 0, .events = POLLIN}};
    nfds_t count = 2;
    if (bind(watched[0].fd, (struct sockaddr *)&address, length) || listen(watched[0].fd, 16)) return 1;
    getsockname(watched[0].fd, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    while (poll(watched, count, -1) >= 0 && !watched[1].revents) {
        if (watched[0].revents && count < MOST) {
            int peer = accept(watched[0].fd, 0, 0);
            fcntl(peer, F_SETFL, O_NONBLOCK);
            watched[count++] = (struct pollfd){.fd = peer, .events = POLLIN};
        }
        for (nfds_t at = 2; at < count; at++) {
            char bytes[4096];
            if (!watched[at].revents) continue;
            ssize_t got = recv(watched[at].fd, bytes, sizeof bytes, 0);
            if (got <= 0 || send(watched[at].fd, bytes, got, MSG_NOSIGNAL) != got) {
                close(watched[at].fd);
                watched[at--] = watched[--count];
            }
        }
    }
    return 0;
}
