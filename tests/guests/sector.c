/*
 * An init that writes the text at two places of /dev/vda to the kernel's log, tries to change the disk, and powers off.
 * Without a library.
 *
 * gcc -static -nostdlib -Os -o init sector.c
 */
enum { SYS_READ = 0, SYS_WRITE = 1, SYS_OPEN = 2, SYS_LSEEK = 8, SYS_MOUNT = 165, SYS_REBOOT = 169 };

static long call(long number, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

/* As critical, which is written to a quiet console, too. */
static char line[512] = "<2>";

static void show(long disk, long log, long at)
{
	call(SYS_LSEEK, disk, at, 0, 0, 0);
	if (call(SYS_READ, disk, (long)line + 3, 40, 0, 0) != 40)
		line[3] = '?';
	call(SYS_WRITE, log, (long)line, 43, 0, 0);
}

void _start(void)
{
	call(SYS_MOUNT, (long)"dev", (long)"/dev", (long)"devtmpfs", 0, 0);
	long disk = call(SYS_OPEN, (long)"/dev/vda", 0, 0, 0, 0);
	long log = call(SYS_OPEN, (long)"/dev/kmsg", 1, 0, 0, 0);

	show(disk, log, 0);
	show(disk, log, 2047 * 512);
	disk = call(SYS_OPEN, (long)"/dev/vda", 1, 0, 0, 0);
	if (disk < 0 || call(SYS_WRITE, disk, (long)line, sizeof line, 0, 0) < 0)
		call(SYS_WRITE, log, (long)"<2>it is read-only", 18, 0, 0);
	call(SYS_REBOOT, 0xfee1dead, 672274793, 0x4321fedc, 0, 0);
	for (;;)
		;
}
