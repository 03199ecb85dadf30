/* Four TCP ports of one's own and a server on one of them, by socket options alone.
 *
 *     cc -I bpf -o kernel examples/kernel.c && ./kernel
 *
 * Needs the kernel engine (portkeep load), and no privilege. */
#include <arpa/inet.h>
#include <err.h>
#include <stdio.h>

#include "portkeep.bpf.h"

int main(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	struct portkeep_range range = { .count = 4 };
	struct portkeep_instance block;
	socklen_t size = sizeof(block), length = sizeof(address);
	int anchor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (setsockopt(anchor, SOL_PORTKEEP, PORTKEEP_ACQUIRE, &range, sizeof(range)) ||
	    getsockopt(anchor, SOL_PORTKEEP, PORTKEEP_INSTANCE, &block, &size))
		err(1, "acquire");
	if (setsockopt(server, SOL_PORTKEEP, PORTKEEP_ASSOCIATE, &block.token, sizeof(block.token)))
		err(1, "associate");
	if (bind(server, (struct sockaddr *)&address, length) ||
	    getsockname(server, (struct sockaddr *)&address, &length))
		err(1, "bind");
	printf("%d of %d+%d\n", ntohs(address.sin_port), ntohs(block.start), block.count);
	fflush(stdout);
	getchar(); /* until Enter; then, or when the process ends, the ports are free again */
	if (setsockopt(anchor, SOL_PORTKEEP, PORTKEEP_RELEASE, &block.token, sizeof(block.token)))
		err(1, "release");
	return 0;
}
