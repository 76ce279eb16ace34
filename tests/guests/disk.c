/*
 * The guest of tests/disk.rs: an init that reads, writes and reads /dev/vda past the page cache, one MiB after
 * the other, with no library. It says on the kernel's console how each went: the word, which MiB, and the error's
 * number; 0 is fine, and -1 a read of something else than was written.
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

static void say(const char *what, long which, long result, long wanted)
{
	/* At the level that a quiet kernel writes, too. */
	char line[64] = "<0>disk: ", *end = line + 9;

	while (*what)
		*end++ = *what++;
	*end++ = ' ';
	end = put_number(end, which);
	*end++ = ' ';
	end = put_number(end, result == wanted ? 0 : result < 0 ? -result : -1);
	call(SYS_write, kmsg, (long)line, end - line, 0);
}

void _start(void)
{
	call(SYS_mount, (long)"dev", (long)"/dev", (long)"devtmpfs", 0);
	kmsg = call(SYS_open, (long)"/dev/kmsg", O_WRONLY, 0, 0);
	long disk = call(SYS_open, (long)"/dev/vda", O_RDWR | 040000 /* O_DIRECT */, 0, 0);
	say("open", 0, disk < 0 ? disk : 0, 0);
	for (long i = 0; i < SIZE; i++)
		say("first-read", i, call(SYS_pread64, disk, (long)buffer, MIB, i * MIB), MIB);
	for (long i = 0; i < SIZE; i++) {
		for (long k = 0; k < MIB / 4; k++)
			buffer[k] = k * 2654435761 + i;
		say("write", i, call(SYS_pwrite64, disk, (long)buffer, MIB, i * MIB), MIB);
	}
	say("flush", 0, call(SYS_fdatasync, disk, 0, 0, 0), 0);
	for (long i = 0; i < SIZE; i++) {
		long result = call(SYS_pread64, disk, (long)buffer, MIB, i * MIB);
		for (long k = 0; result == MIB && k < MIB / 4; k++)
			if (buffer[k] != (unsigned)(k * 2654435761 + i))
				result = 0;
		say("read", i, result, MIB);
	}
	call(SYS_reboot, 0xfee1dead, 672274793, 0x4321fedc, 0);
	for (;;)
		;
}
