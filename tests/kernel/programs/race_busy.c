/* A user who acquires a busy block in a loop: UID START COUNT PORT HOLD.
 * HOLD "socket": PORT is busy by a socket of his; "block": by a reservation of his.
 * Says "ready" before the first try, and "flood" when it has tried often; ends with its input, and then
 * says how often it failed. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LEVEL 0x504B
#define ACQUIRE 1
#define OFTEN 100

struct range {
	uint16_t start, count;
};

static int acquire(int anchor, int start, int count)
{
	struct range range = { htons(start), count };

	return setsockopt(anchor, LEVEL, ACQUIRE, &range, sizeof(range));
}

int main(int count, char **words)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct pollfd input = { .fd = 0, .events = POLLIN };
	unsigned long tries = 0;
	uid_t uid;

	if (count != 6)
		return 2;
	uid = atoi(words[1]);
	if (setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
		return 3;
	int anchor = socket(AF_INET, SOCK_STREAM, 0), own = socket(AF_INET, SOCK_STREAM, 0);
	int start = atoi(words[2]), size = atoi(words[3]), port = atoi(words[4]);

	to.sin_port = htons(port);
	if (strcmp(words[5], "block") ? bind(own, (void *)&to, sizeof(to)) : acquire(own, port, 1))
		return 4;
	if (acquire(anchor, start, size) != -1 || errno != EADDRINUSE) {
		perror("not busy");
		return 5;
	}
	puts("ready");
	fflush(stdout);
	for (; !poll(&input, 1, 0); tries++) {
		if (tries == OFTEN) {
			puts("flood");
			fflush(stdout);
		}
		if (acquire(anchor, start, size) != -1 || errno != EADDRINUSE)
			return 6;
	}
	printf("%lu\n", tries);
	return 0;
}
