/* A 32-bit program without a C library, since none may be installed for it. Prints the results of
 * its calls as ints, 0 or -errno: socket, VERSION, ACQUIRE, bind to 20003, bind to 20100; for TCP
 * over IPv4, over IPv6, and over IPv4 by the old socketcall. */
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/socket.h>

#include "portkeep.bpf.h"

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1

enum { EXIT = 1, WRITE = 4, CLOSE = 6, SOCKETCALL = 102, SOCKET = 359, BIND = 361, GET = 365, SET = 366 };
enum { OLD_SOCKET = 1, OLD_BIND = 2, OLD_SET = 14, OLD_GET = 15 };

static int call(int number, long a, long b, long c, long d, long e)
{
	int result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory");
	return result;
}

/* By its own number, or through socketcall. */
static int socket_call(int own, int old, long a, long b, long c, long d, long e)
{
	long words[] = { a, b, c, d, e };

	return old ? call(SOCKETCALL, old, (long)words, 0, 0, 0) : call(own, a, b, c, d, e);
}

static void say(int result)
{
	call(WRITE, 1, (long)&result, sizeof(result), 0, 0);
}

static int bind_to(int fd, int family, int port, int old)
{
	struct sockaddr_in6 address = { .sin6_family = family, .sin6_port = __builtin_bswap16(port) };
	int size = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(address);

	return socket_call(BIND, old ? OLD_BIND : 0, fd, (long)&address, size, 0, 0);
}

static void try(int family, int old)
{
	struct portkeep_range range = { __builtin_bswap16(21000), 1 };
	struct portkeep_version version;
	int size = sizeof(version);
	int fd = socket_call(SOCKET, old ? OLD_SOCKET : 0, family, SOCK_STREAM, 0, 0, 0);

	say(fd < 0 ? fd : 0);
	say(socket_call(GET, old ? OLD_GET : 0, fd, SOL_PORTKEEP, PORTKEEP_VERSION, (long)&version,
			(long)&size));
	say(socket_call(SET, old ? OLD_SET : 0, fd, SOL_PORTKEEP, PORTKEEP_ACQUIRE, (long)&range,
			sizeof(range)));
	say(bind_to(fd, family, 20003, old));
	say(bind_to(fd, family, 20100, old));
	call(CLOSE, fd, 0, 0, 0, 0);
}

void _start(void)
{
	try(AF_INET, 0);
	try(AF_INET6, 0);
	try(AF_INET, 1);
	call(EXIT, 0, 0, 0, 0, 0);
}
