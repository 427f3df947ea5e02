/* A load on a token socket: each client connects, asks, reads to the end, and begins again.

   load [-c CLIENTS] [-t SECONDS] [-r RATE] [-b BYTES] [-e] SOCKET REQUEST

   -c  clients at one time (1)
   -t  how long (until SIGTERM); requests that are under way then are still waited for
   -r  requests a second, begun at fixed times whatever the server does: a reply counts from the time at which its
       request was due, so that a stall is seen by all requests that it delays. Without -r each client asks again as soon
       as it is answered, and a stall delays one request of each client.
   -b  a reply with fewer bytes is a failure (0: also a reset, which is how a peer is refused)
   -e  close the writing side after the request, as exim does

   REQUEST may have \n in it, and % for the number of the client, from 0. Prints: requests a second; the 50th and 99th
   percentile and the longest time in microseconds; replies, failures. One thread and epoll, so that the load costs little;
   `floor` shows what is left. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct client {
    int fd;
    char request[512];
    uint64_t begun;
    size_t got;
    struct client *next_free;
};

static struct sockaddr_un address;
static size_t least;
static int half_close, poll_fd;
static uint64_t failed, done, under_way;
static uint32_t *times;
static size_t room;
static struct client *unused;
static volatile sig_atomic_t stop;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void on_term(int number) {
    (void)number;
    stop = 1;
}

static void count(struct client *client, int whole) {
    close(client->fd);
    under_way--;
    client->next_free = unused;
    unused = client;
    if (!whole) {
        failed++;
        return;
    }
    if (done == room) {
        room = room ? room * 2 : 1 << 16;
        times = realloc(times, room * sizeof *times);
        if (!times) abort();
    }
    times[done++] = (uint32_t)((now() - client->begun) / 1000u);
}

/* Connects and asks, for a request that was due then. A full accept queue makes connect() wait, as a real client does. */
static void begin(uint64_t due) {
    struct client *client = unused;
    unused = client->next_free;
    under_way++;
    client->begun = due;
    client->got = 0;
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, sizeof address) < 0) {
        count(client, 0);
        usleep(1000);
        return;
    }
    if (send(client->fd, client->request, strlen(client->request), MSG_NOSIGNAL) < 0 ||
        (half_close && shutdown(client->fd, SHUT_WR) < 0)) {
        count(client, !least);
        return;
    }
    fcntl(client->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, client->fd, &event) < 0) abort();
}

static void take(struct client *client) {
    char reply[65536];
    ssize_t size;
    while ((size = recv(client->fd, reply, sizeof reply, 0)) > 0) client->got += (size_t)size;
    if (size < 0 && errno == EAGAIN) return;
    count(client, client->got >= least && (size == 0 || !least));
}

static int by_size(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

static void write_request(char *to, size_t room, const char *from, int number) {
    for (char *end = to + room; *from && to < end - 16; from++) {
        if (*from == '%') to += sprintf(to, "%d", number);
        else if (from[0] == '\\' && from[1] == 'n') *to++ = '\n', from++;
        else *to++ = *from;
    }
    *to = 0;
}

/* The first of the requests that are due, 0 if none is yet. */
static uint64_t due(uint64_t begun, uint64_t pause, uint64_t asked) {
    uint64_t next = begun + pause * asked;
    return pause ? (next <= now() ? next : 0) : now();
}

int main(int argc, char **argv) {
    int clients = 1, option;
    double seconds = 1e9, rate = 0;
    while ((option = getopt(argc, argv, "c:t:r:b:e")) != -1) {
        if (option == 'c') clients = atoi(optarg);
        else if (option == 't') seconds = atof(optarg);
        else if (option == 'r') rate = atof(optarg);
        else if (option == 'b') least = strtoul(optarg, NULL, 10);
        else if (option == 'e') half_close = 1;
        else return 2;
    }
    if (argc - optind != 2) return 2;
    signal(SIGTERM, on_term);
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, argv[optind], sizeof address.sun_path - 1);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct client *all = calloc((size_t)clients, sizeof *all);
    for (int i = 0; i < clients; i++) {
        write_request(all[i].request, sizeof all[i].request, argv[optind + 1], i);
        all[i].next_free = unused;
        unused = &all[i];
    }
    uint64_t pause = rate > 0 ? (uint64_t)(1e9 / rate) : 0, asked = 0, when;
    uint64_t begun = now(), end = begun + (uint64_t)(seconds * 1e9);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event tick = {.events = EPOLLIN, .data.ptr = NULL};
    struct itimerspec every = {{(time_t)(pause / 1000000000u), (long)(pause % 1000000000u)}, {0, 1}};
    if (timer < 0 || (pause && timerfd_settime(timer, 0, &every, NULL) < 0)) abort();
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer, &tick);
    int asking = 1;
    while (asking || under_way) {
        while ((asking = !stop && now() < end) && unused && (when = due(begun, pause, asked))) {
            asked++;
            begin(when);
        }
        struct epoll_event ready[256];
        int number = epoll_wait(poll_fd, ready, 256, 100);
        for (int i = 0; i < number; i++) {
            uint64_t ticks;
            if (ready[i].data.ptr) take(ready[i].data.ptr);
            else if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) abort();
        }
    }
    double took = (double)(now() - begun) / 1e9;
    if (done) qsort(times, done, sizeof *times, by_size);
    printf("%.1f %u %u %u %llu %llu\n", (double)done / took, done ? times[done / 2] : 0, done ? times[done * 99 / 100] : 0,
           done ? times[done - 1] : 0, (unsigned long long)done, (unsigned long long)failed);
    return 0;
}
