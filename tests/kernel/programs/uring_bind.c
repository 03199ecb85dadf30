/* bind() through io_uring, without liburing. Arguments: a port, and 1 to have a worker do it.
 * Prints the errno, 0 for success; exits with 2 where the kernel lacks the means. */
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BIND 56 /* IORING_OP_BIND, which the headers installed here may lack */

static void *map(int ring, size_t size, off_t what)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, what);
}

int main(int count, char **words)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	struct io_uring_params params = {};
	int ring = syscall(SYS_io_uring_setup, 4, &params);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (ring < 0 || count != 3)
		return 2;
	address.sin_port = htons(atoi(words[1]));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	char *submit = map(ring, params.sq_off.array + params.sq_entries * 4, IORING_OFF_SQ_RING);
	char *complete = map(ring, params.cq_off.cqes + params.cq_entries * 16, IORING_OFF_CQ_RING);
	struct io_uring_sqe *entry = map(ring, params.sq_entries * sizeof(*entry), IORING_OFF_SQES);
	struct io_uring_cqe *done = (void *)(complete + params.cq_off.cqes);
	if (submit == MAP_FAILED || complete == MAP_FAILED || entry == MAP_FAILED)
		return 2;
	*entry = (struct io_uring_sqe){
		.opcode = BIND,
		.fd = fd,
		.addr = (uintptr_t)&address,
		.addr2 = sizeof(address), /* where this operation has its length */
		.flags = atoi(words[2]) ? IOSQE_ASYNC : 0,
	};
	((unsigned int *)(submit + params.sq_off.array))[0] = 0;
	__atomic_store_n((unsigned int *)(submit + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		return 2;
	printf("%d\n", -done->res);
	return 0;
}
