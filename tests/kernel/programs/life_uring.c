// A process whose anchor is a registered file of an io_uring and nothing else: the first argument is
// the first of four ports. Writes one byte when that is so, none where io_uring is not allowed.
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct {
		unsigned short start, count;
	} range = { htons(argc > 1 ? atoi(argv[1]) : 0), 4 };
	struct io_uring_params params = { 0 };
	int anchor = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int ring = syscall(SYS_io_uring_setup, 4, &params);

	if (ring < 0)
		return 0;
	if (setsockopt(anchor, 0x504B, 1, &range, sizeof(range)))
		return 1;
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, &anchor, 1))
		return 1;
	close(anchor);
	if (write(1, "x", 1) != 1)
		return 1;
	for (;;)
		pause();
}
