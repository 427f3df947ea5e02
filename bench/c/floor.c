/* What a server of this protocol costs at least: one thread and epoll, no account, no policy, no log.

   floor SOCKET BYTES

   Every client gets BYTES bytes once it has sent a line. Says "ready" when it listens. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void watch(int poll_fd, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event) < 0) close(fd);
}

static void answer(int fd, const char *reply, size_t bytes) {
    char request[1024];
    ssize_t size = recv(fd, request, sizeof request, 0);
    if (size > 0 && send(fd, reply, bytes, MSG_NOSIGNAL) != (ssize_t)bytes) perror("send");
    close(fd);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    size_t bytes = strtoul(argv[2], NULL, 10);
    char *reply = malloc(bytes);
    memset(reply, 'x', bytes);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4096) < 0) {
        perror(argv[1]);
        return 1;
    }
    watch(poll_fd, listener);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event ready[256];
        int number = epoll_wait(poll_fd, ready, 256, -1);
        for (int i = 0; i < number; i++) {
            int fd;
            if (ready[i].data.fd != listener) answer(ready[i].data.fd, reply, bytes);
            else while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) watch(poll_fd, fd);
        }
    }
}
