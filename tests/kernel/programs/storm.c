/* Kills processes that reserve: KILLS SEED.
 * Says after which of its calls each one died: a line of STEPS numbers, and one of all calls. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LEVEL 0x504B
enum { ACQUIRE = 1, ASSOCIATE, RELEASE, INSTANCE };
#define VICTIMS 4
#define NOBODY 65534
#define LONGEST_LIFE 800000 /* nanoseconds */

enum { BORN, OPENED, ACQUIRED, LISTED, OPENED_TOO, ASSOCIATED, BOUND, LISTENING, RELEASED, STEPS };

struct request {
	uint16_t start, count;
	uint32_t grant;
	uint16_t alignment, flags;
	uint32_t zero;
	uint64_t grant_id;
};

struct instance {
	uint16_t start, count;
	uint32_t zero;
	uint64_t token;
};

static _Atomic int *steps; /* of each victim, shared with it */
static _Atomic unsigned long *calls;

static void reached(int victim, int step)
{
	steps[victim] = step;
	(*calls)++;
}

static void reserve_for_ever(int victim, unsigned seed)
{
	struct sockaddr_in to = { .sin_family = AF_INET };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (victim & 1 && (setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY)))
		_exit(1);
	for (;;) {
		int kind = rand_r(&seed) & 1 ? SOCK_STREAM : SOCK_DGRAM, anchor, consumer;
		struct request request = { .count = 1 + rand_r(&seed) % 40,
					   .grant = rand_r(&seed) & 1,
					   .flags = rand_r(&seed) & 1 };
		struct instance block;
		socklen_t size = sizeof(block);

		anchor = socket(AF_INET6, kind, 0);
		reached(victim, OPENED);
		if (!setsockopt(anchor, LEVEL, ACQUIRE, &request, sizeof(request))) {
			reached(victim, ACQUIRED);
			if (getsockopt(anchor, LEVEL, INSTANCE, &block, &size))
				_exit(2);
			reached(victim, LISTED);
			consumer = socket(AF_INET, kind, 0);
			reached(victim, OPENED_TOO);
			if (setsockopt(consumer, LEVEL, ASSOCIATE, &block.token, 8))
				_exit(3);
			reached(victim, ASSOCIATED);
			if (bind(consumer, (void *)&to, sizeof(to)))
				_exit(4);
			reached(victim, BOUND);
			if (kind == SOCK_STREAM && listen(consumer, 1))
				_exit(5);
			reached(victim, LISTENING);
			if (rand_r(&seed) & 1 && setsockopt(consumer, LEVEL, RELEASE, &block.token, 8))
				_exit(6);
			reached(victim, RELEASED);
			close(consumer);
		}
		close(anchor);
	}
}

static pid_t start(int victim, unsigned seed)
{
	pid_t pid;

	steps[victim] = BORN;
	pid = fork();
	if (!pid)
		reserve_for_ever(victim, seed);
	return pid;
}

static int end(pid_t pid)
{
	int status;

	return kill(pid, SIGKILL) || waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status);
}

int main(int count, char **words)
{
	unsigned long died[STEPS] = { 0 };
	pid_t victims[VICTIMS];
	int kills, wrong = 0;
	unsigned seed;
	void *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (count != 3 || shared == MAP_FAILED)
		return 2;
	kills = atoi(words[1]);
	seed = atoi(words[2]);
	calls = shared;
	steps = (void *)(calls + 1);
	for (int i = 0; i < VICTIMS; i++)
		victims[i] = start(i, rand_r(&seed));
	for (int i = 0; i < kills; i++) {
		struct timespec moment = { .tv_nsec = rand_r(&seed) % LONGEST_LIFE };
		int victim = rand_r(&seed) % VICTIMS;

		nanosleep(&moment, NULL);
		wrong += end(victims[victim]);
		died[steps[victim]]++;
		victims[victim] = start(victim, rand_r(&seed));
	}
	for (int i = 0; i < VICTIMS; i++)
		wrong += end(victims[i]);
	for (int i = 0; i < STEPS; i++)
		printf("%lu ", died[i]);
	printf("\n%lu\n", *calls);
	return wrong != 0;
}
