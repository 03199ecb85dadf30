/* Calls that make no sense: UID RANDOM SEED.
 * Says "done" when all answers were as they should be, waits for the end of its input with its
 * sockets open, and ends. What was wrong is said on standard error. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define LEVEL 0x504B
enum { ACQUIRE = 1, ASSOCIATE, RELEASE, INSTANCE, VERSION, ADOPT, GRANT, POOL, QUERY = 0x10000 };
#define LONGEST 64
#define CANARY 0xA5
#define SOCKETS 4
#define CALLS_A_SOCKET 5000
#define MANY_WRONG 20
#define BIG (1 << 20)

static int sockets[SOCKETS];
static unsigned long calls, accepted;
static int wrong;
static uint64_t state;

static uint32_t dice(void)
{
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return state >> 20;
}

static void complain(const char *what, int option, int length, int error)
{
	fprintf(stderr, "%s, option %d, length %d: %s\n", what, option, length, strerror(error));
	if (++wrong >= MANY_WRONG)
		exit(1);
}

static void open_sockets(void)
{
	static const int families[] = { AF_INET, AF_INET6 }, types[] = { SOCK_STREAM, SOCK_DGRAM };

	for (int i = 0; i < SOCKETS; i++)
		sockets[i] = socket(families[i & 1], types[i >> 1], 0);
}

static void close_sockets(void)
{
	for (int i = 0; i < SOCKETS; i++)
		close(sockets[i]);
}

static void fill(unsigned char *buffer, int length, int how)
{
	for (int i = 0; i < length; i++)
		buffer[i] = how == 0 ? 0 : how == 1 ? 0xff : dice();
}

/* No value that the sweep sends makes sense. */
static void set_nonsense(int s, int option, int length, int how)
{
	unsigned char buffer[LONGEST];

	fill(buffer, length, how);
	if (option == ACQUIRE && length > 3)
		buffer[2] = buffer[3] = 0; /* no ports */
	calls++;
	if (!setsockopt(s, LEVEL, option, buffer, length))
		complain("set was accepted", option, length, 0);
	else if (errno != EINVAL)
		complain("set", option, length, errno);
}

static int answers(int option, int length)
{
	return (option == VERSION && length >= 8) || (option == POOL && length >= 4) ||
	       (option > QUERY && option < QUERY + 65536 && length >= 40);
}

static void get_nonsense(int s, int option, int length, int how)
{
	unsigned char before[LONGEST + 1], buffer[LONGEST + 1];
	socklen_t size = length;

	fill(before, length, how);
	before[length] = CANARY;
	memcpy(buffer, before, sizeof(buffer));
	calls++;
	if (!getsockopt(s, LEVEL, option, buffer, &size)) {
		if (option == POOL ? length < 4 : !answers(option, length))
			complain("get was answered", option, length, 0);
		if (size > (socklen_t)length || buffer[length] != CANARY)
			complain("get wrote too much", option, length, 0);
	} else {
		if (errno != EINVAL && !(option == INSTANCE && length >= 16 && errno == ENOENT))
			complain("get", option, length, errno);
		if (answers(option, length) && option != POOL)
			complain("get has no answer", option, length, errno);
		if (memcmp(buffer, before, length + 1))
			complain("get failed and wrote", option, length, errno);
	}
}

static void sweep(int option, int s)
{
	for (int length = 0; length <= LONGEST; length++) {
		for (int how = 0; how < 3; how++) {
			set_nonsense(s, option, length, how);
			get_nonsense(s, option, length, how);
		}
	}
}

/* Some of these make sense by chance; what they took is given back with the sockets. */
static void guess(void)
{
	static const int likely[] = { ACQUIRE, ACQUIRE, ACQUIRE, ASSOCIATE, RELEASE, ADOPT, GRANT };
	static const int lengths[] = { 4, 4, 8, 24, 24 };
	int s = sockets[dice() % SOCKETS], pick = dice() % 10;
	int option = pick < 7 ? likely[pick] : pick < 9 ? (int)(dice() % 32) - 1 : (int)dice();
	int length = dice() % 3 ? lengths[dice() % 5] : (int)(dice() % (LONGEST + 1));
	unsigned char buffer[LONGEST];

	fill(buffer, length, 2);
	if (option == ACQUIRE && length == 24 && dice() % 4) {
		/* Near enough to get past the first checks. */
		memset(buffer + 3, 0, 21);
		buffer[4] = dice() % 6;
		buffer[8] = 1 << dice() % 8;
		buffer[10] = dice() % 3;
	}
	calls++;
	if (!setsockopt(s, LEVEL, option, buffer, length)) {
		accepted++;
		if (option != ACQUIRE)
			complain("a guess was accepted", option, length, 0);
	} else if (errno != EINVAL &&
		   (option != ACQUIRE || (errno != EADDRINUSE && errno != ENOBUFS &&
					  errno != EACCES && errno != EOPNOTSUPP))) {
		complain("a guess", option, length, errno);
	}
}

static void expect(const char *what, int option, int length, int got, int want)
{
	int error = got ? errno : 0;

	calls++;
	if (error != want)
		complain(what, option, length, error);
}

/* Lengths and addresses that are wrong in themselves. */
static void bad_pointers(int s)
{
	static const int options[] = { 0, ACQUIRE, ASSOCIATE, RELEASE, ADOPT, GRANT, 99 };
	static const int asked[] = { 0, INSTANCE, VERSION, QUERY + 8080, 99 };
	static const int large[] = { 4095, 4096, 4097, 8192, 65536, BIG };
	int page = sysconf(_SC_PAGESIZE);
	char *two = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *big = calloc(1, BIG), *end = two + page;

	mprotect(end, page, PROT_NONE);
	for (unsigned i = 0; i < sizeof(options) / sizeof(*options); i++) {
		int option = options[i];

		expect("set nowhere", option, 4, setsockopt(s, LEVEL, option, NULL, 4), EFAULT);
		expect("set nothing", option, 0, setsockopt(s, LEVEL, option, NULL, 0), EINVAL);
		expect("set half", option, 24, setsockopt(s, LEVEL, option, end - 2, 24), EFAULT);
		expect("set at the end", option, 8, setsockopt(s, LEVEL, option, end - 8, 8), EINVAL);
		expect("set less than nothing", option, -1,
		       setsockopt(s, LEVEL, option, two, (socklen_t)-1), EINVAL);
		expect("set less than nothing", option, INT_MIN,
		       setsockopt(s, LEVEL, option, two, (socklen_t)INT_MIN), EINVAL);
		for (unsigned k = 0; k < sizeof(large) / sizeof(*large); k++)
			expect("set much", option, large[k],
			       setsockopt(s, LEVEL, option, big, large[k]), EINVAL);
	}
	for (unsigned i = 0; i < sizeof(asked) / sizeof(*asked); i++) {
		int option = asked[i], known = answers(option, LONGEST);
		int otherwise = known ? 0 : option == INSTANCE ? ENOENT : EINVAL;
		socklen_t size = LONGEST;

		/* The kernel takes no address to mean that only the length is asked for, and shows
		 * the hooks an unreadable length as 0. */
		expect("get nowhere", option, LONGEST, getsockopt(s, LEVEL, option, NULL, &size),
		       otherwise);
		expect("get no length", option, 0, getsockopt(s, LEVEL, option, big, NULL), EINVAL);
		size = -1;
		expect("get less than nothing", option, -1,
		       getsockopt(s, LEVEL, option, big, &size), EINVAL);
		size = LONGEST;
		expect("get past the end", option, LONGEST,
		       getsockopt(s, LEVEL, option, end - 2, &size), known ? EFAULT : otherwise);
		for (unsigned k = 0; k < sizeof(large) / sizeof(*large); k++) {
			size = large[k];
			expect("get much", option, large[k],
			       getsockopt(s, LEVEL, option, big, &size), otherwise);
			if (size > LONGEST && !otherwise)
				complain("get said it wrote much", option, large[k], 0);
		}
	}
	free(big);
	munmap(two, 2 * page);
}

int main(int count, char **words)
{
	char byte;

	if (count != 4)
		return 2;
	uid_t uid = atoi(words[1]);
	int guesses = atoi(words[2]);

	state = atoi(words[3]) * 0x9E3779B97F4A7C15ULL + 1;
	if (setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
		return 3;
	open_sockets();
	for (int i = 0; i < guesses; i++) {
		if (i % CALLS_A_SOCKET == CALLS_A_SOCKET - 1) {
			close_sockets();
			open_sockets();
		}
		guess();
	}
	close_sockets();
	open_sockets();
	for (int i = 0; i < SOCKETS; i++) {
		for (int option = -1; option <= 64; option++)
			sweep(option, sockets[i]);
		bad_pointers(sockets[i]);
	}
	for (int option = 0xfff0; option <= 0x20010; option += 1 + dice() % 128)
		sweep(option, sockets[dice() % SOCKETS]);
	for (int option = 0xfff0; option <= 0x10010; option++)
		sweep(option, sockets[0]);
	for (int option = 0x1fff0; option <= 0x20010; option++)
		sweep(option, sockets[0]);
	fprintf(stderr, "uid %u: %lu calls, %d of them guesses, of which %lu were granted\n", uid, calls,
		guesses, accepted);
	if (wrong)
		return 1;
	puts("done");
	fflush(stdout);
	return read(0, &byte, 1) != 0;
}
