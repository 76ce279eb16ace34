/*
 * The guest of tests/disk.rs: an init that reads, writes and reads /dev/vda past the page cache, one MiB after
 * the other, with no library. It says on the kernel's console how each went, a line for each round: the error's number of
 * each request; 0 is fine, and -1 a read of something else than was written.
 *
 * gcc -static -nostdlib -ffreestanding -fno-stack-protector -Os -o disk disk.c
 */
#include <fcntl.h>
#include <sys/syscall.h>

enum { MIB = 1 << 20, SIZE = 16 };

static unsigned buffer[MIB / 4] __attribute__((aligned(4096)));
static long kmsg;

static long call(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
}

static char *put_number(char *to, long number)
{
	if (number < 0) {
		*to++ = '-';
		number = -number;
	}
	if (number >= 10)
		to = put_number(to, number / 10);
	*to++ = '0' + number % 10;
	return to;
}

static char line[128], *end;

/* A line for each round of requests: the kernel takes ten at once, and drops others. */
static void start(const char *what)
{
	/* At the level that a quiet kernel writes, too. */
	const char *level = "<0>disk: ";

	end = line;
	while (*level)
		*end++ = *level++;
	while (*what)
		*end++ = *what++;
}

static void add(long result, long wanted)
{
	*end++ = ' ';
	end = put_number(end, result == wanted ? 0 : result < 0 ? -result : -1);
}

static void say(void)
{
	call(SYS_write, kmsg, (long)line, end - line, 0);
}

void _start(void)
{
	call(SYS_mount, (long)"dev", (long)"/dev", (long)"devtmpfs", 0);
	kmsg = call(SYS_open, (long)"/dev/kmsg", O_WRONLY, 0, 0);
	long disk = call(SYS_open, (long)"/dev/vda", O_RDWR | 040000 /* O_DIRECT */, 0, 0);
	start("open");
	add(disk < 0 ? disk : 0, 0);
	say();
	start("first-read");
	for (long i = 0; i < SIZE; i++)
		add(call(SYS_pread64, disk, (long)buffer, MIB, i * MIB), MIB);
	say();
	start("write");
	for (long i = 0; i < SIZE; i++) {
		for (long k = 0; k < MIB / 4; k++)
			buffer[k] = k * 2654435761 + i;
		add(call(SYS_pwrite64, disk, (long)buffer, MIB, i * MIB), MIB);
	}
	say();
	start("flush");
	add(call(SYS_fdatasync, disk, 0, 0, 0), 0);
	say();
	start("read");
	for (long i = 0; i < SIZE; i++) {
		long result = call(SYS_pread64, disk, (long)buffer, MIB, i * MIB);
		for (long k = 0; result == MIB && k < MIB / 4; k++)
			if (buffer[k] != (unsigned)(k * 2654435761 + i))
				result = 0;
		add(result, MIB);
	}
	say();
	call(SYS_reboot, 0xfee1dead, 672274793, 0x4321fedc, 0);
	for (;;)
		;
}
