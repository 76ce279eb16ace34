/*
 * Both ends of `cargo xtask bench net`: an init that moves bytes and packets through its network interface, and,
 * with -DHOST, the server that it talks to. Before and after each load the guest executes CPUID with a leaf of
 * its own, which always leaves it, so that the host's trace has its time.
 *
 * gcc -static -O2 -o net net.c
 * gcc -static -O2 -DHOST -o net-host net.c      (then `net-host`, or `net-host tap NAME QUEUES COMMAND...`)
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PORT = 7000, CHUNK = 1 << 16, BYTES = 64 << 20, TRIPS = 2000, PACKETS = 8192, SIZE = 64, BURST = 32 };
static const char SERVER[] = "203.0.113.5";
static char buffer[CHUNK];

static void die(const char *what)
{
	printf("bench: %s: %s\n", what, strerror(errno));
	fflush(stdout);
	exit(1);
}

static void check(long result, const char *what)
{
	if (result < 0)
		die(what);
}

static struct sockaddr_in at(const char *address, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };

	inet_pton(AF_INET, address, &to.sin_addr);
	return to;
}

/* Reads so many bytes, or to the end if `count` is negative. */
static void take(int from, long count)
{
	while (count) {
		long want = count < 0 || count > CHUNK ? CHUNK : count;
		long got = read(from, buffer, want);

		check(got, "read");
		if (got == 0 && count < 0)
			return;
		if (got == 0)
			die("the stream ended");
		if (count > 0)
			count -= got;
	}
}

static void give(int to, long count)
{
	while (count > 0) {
		long gone = write(to, buffer, count > CHUNK ? CHUNK : count);

		check(gone, "write");
		count -= gone;
	}
}

static void at_once(int socket)
{
	int one = 1;

	check(setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), "TCP_NODELAY");
}

#ifdef HOST
/* The first byte of a connection says what it is for. */
static void serve(int client)
{
	char what;
	long count;

	at_once(client);
	take(client, 1);
	what = buffer[0];
	take(client, sizeof count);
	memcpy(&count, buffer, sizeof count);
	if (what == 'd') {
		give(client, count);
	} else if (what == 'u') {
		take(client, count);
		give(client, 1);
	} else {
		while (count--) {
			take(client, 1);
			give(client, 1);
		}
	}
	take(client, -1);
	exit(0);
}

/* 'u' counts packets and answers each burst; 'd' sends a burst for each packet. */
static void datagrams(void)
{
	int server = socket(AF_INET, SOCK_DGRAM, 0), seen = 0;
	struct sockaddr_in own = at(SERVER, PORT), peer;

	check(bind(server, (void *)&own, sizeof own), "bind");
	for (;;) {
		socklen_t length = sizeof peer;
		long got = recvfrom(server, buffer, CHUNK, 0, (void *)&peer, &length);

		check(got, "recvfrom");
		if (buffer[0] == 'u' && ++seen % BURST == 0)
			sendto(server, buffer, 1, 0, (void *)&peer, length);
		for (int i = 0; buffer[0] == 'd' && i < BURST; i++)
			sendto(server, buffer, SIZE, 0, (void *)&peer, length);
	}
}

#include <linux/if_tun.h>

/* A command with a tap as its standard input. */
static void tap(char **arguments)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR);

	check(fd, "open /dev/net/tun");
	strncpy(request.ifr_name, arguments[0], IFNAMSIZ - 1);
	check(ioctl(fd, TUNSETIFF, &request), "TUNSETIFF");
	check(dup2(fd, 0), "dup2");
	execvp(arguments[1], arguments + 1);
	die("exec");
}

int main(int count, char **arguments)
{
	int server = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	struct sockaddr_in own = at(SERVER, PORT);

	if (count > 3 && !strcmp(arguments[1], "tap"))
		tap(arguments + 2);
	setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	check(bind(server, (void *)&own, sizeof own), "bind");
	check(listen(server, 64), "listen");
	signal(SIGCHLD, SIG_IGN);
	if (fork() == 0)
		datagrams();
	for (;;) {
		int client = accept(server, 0, 0);

		check(client, "accept");
		if (fork() == 0)
			serve(client);
		close(client);
	}
}
#else
static void mark(unsigned step)
{
	unsigned eax = 0x4e4f4600 + step, ebx, ecx = 0, edx;

	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
}

static void set_up(void)
{
	int any = socket(AF_INET, SOCK_DGRAM, 0);
	struct ifreq request = { .ifr_name = "eth0" };
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };
	struct sockaddr_in own = at("10.9.0.2", 0), mask = at("255.255.255.252", 0), gateway = at("10.9.0.1", 0);

	memcpy(&request.ifr_addr, &own, sizeof own);
	check(ioctl(any, SIOCSIFADDR, &request), "set the address");
	memcpy(&request.ifr_netmask, &mask, sizeof mask);
	check(ioctl(any, SIOCSIFNETMASK, &request), "set the mask");
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	check(ioctl(any, SIOCSIFFLAGS, &request), "set the interface up");
	own = at("0.0.0.0", 0);
	memcpy(&route.rt_gateway, &gateway, sizeof gateway);
	memcpy(&route.rt_dst, &own, sizeof own);
	memcpy(&route.rt_genmask, &own, sizeof own);
	check(ioctl(any, SIOCADDRT, &route), "set the route");
	close(any);
}

static int open_stream(char what, long count)
{
	int stream = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in to = at(SERVER, PORT);

	check(connect(stream, (void *)&to, sizeof to), "connect");
	at_once(stream);
	buffer[0] = what;
	memcpy(buffer + 1, &count, sizeof count);
	give(stream, 1 + sizeof count);
	return stream;
}

static void down(int streams)
{
	int stream = open_stream('d', BYTES / streams);

	take(stream, BYTES / streams);
	close(stream);
}

static void up(int streams)
{
	int stream = open_stream('u', BYTES / streams);

	give(stream, BYTES / streams);
	take(stream, 1);
	close(stream);
}

static void trips(int streams)
{
	int stream = open_stream('e', TRIPS / streams);

	for (int i = 0; i < TRIPS / streams; i++) {
		give(stream, 1);
		take(stream, 1);
	}
	close(stream);
}

static int open_datagrams(void)
{
	int stream = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in to = at(SERVER, PORT);
	struct timeval patience = { .tv_sec = 5 };

	check(connect(stream, (void *)&to, sizeof to), "connect");
	setsockopt(stream, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	return stream;
}

static void packets_up(int streams)
{
	int stream = open_datagrams();

	buffer[0] = 'u';
	for (int burst = 0; burst < PACKETS / BURST / streams; burst++) {
		for (int i = 0; i < BURST; i++)
			check(send(stream, buffer, SIZE, 0), "send");
		/* With more streams than one a burst is anyone's. */
		check(recv(stream, buffer + 1, 1, 0), "recv");
	}
	close(stream);
}

static void packets_down(int streams)
{
	int stream = open_datagrams();

	for (int burst = 0; burst < PACKETS / BURST / streams; burst++) {
		buffer[0] = 'd';
		check(send(stream, buffer, 1, 0), "send");
		for (int i = 0; i < BURST; i++)
			check(recv(stream, buffer + 1, SIZE, 0), "recv");
	}
	close(stream);
}

/* Runs a load, in as many processes as streams. */
static void run(int number, void (*load)(int), int streams)
{
	int status, failed = 0;

	mark(2 * number);
	for (int i = 1; i < streams; i++) {
		if (fork() == 0) {
			load(streams);
			_exit(0);
		}
	}
	load(streams);
	while (wait(&status) > 0)
		failed |= status;
	mark(2 * number + 1);
	if (failed)
		die("a stream failed");
}

int main(void)
{
	set_up();
	/* Once for what is only there after the first time. */
	trips(TRIPS / 8);
	run(1, down, 1);
	run(2, down, 4);
	run(3, up, 1);
	run(4, up, 4);
	run(5, trips, 1);
	run(6, trips, 4);
	run(7, packets_up, 1);
	run(8, packets_down, 1);
	run(9, packets_down, 4);
	reboot(RB_POWER_OFF);
	return 1;
}
#endif
