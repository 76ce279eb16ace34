/*
 * The guest of `cargo xtask bench boot`: an init that starts one command, waits for it and powers off, with
 * no library. Each step executes CPUID with a leaf of its own, which always leaves the guest, so that the
 * host's trace (kvm:kvm_cpuid) has its time whatever VMM runs it.
 *
 * gcc -static -nostdlib -Os -o init init.c
 * gcc -static -nostdlib -Os -DCOMMAND -o command init.c
 * gcc -static -nostdlib -Os -DIDLE -o idle init.c    (an init that waits for ever)
 */
enum { SYS_PAUSE = 34, SYS_FORK = 57, SYS_EXECVE = 59, SYS_EXIT = 60, SYS_WAIT4 = 61, SYS_REBOOT = 169 };

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

static void mark(unsigned step)
{
	unsigned eax = 0x4e4f4600 + step, ebx, ecx = 0, edx;

	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
}

void _start(void)
{
#ifdef COMMAND
	mark(2);
	call(SYS_EXIT, 0, 0, 0, 0);
#elif defined(IDLE)
	for (;;)
		call(SYS_PAUSE, 0, 0, 0, 0);
#else
	static char *const arguments[] = { "/command", 0 };

	mark(1);
	long pid = call(SYS_FORK, 0, 0, 0, 0);
	if (pid == 0) {
		call(SYS_EXECVE, (long)arguments[0], (long)arguments, 0, 0);
		call(SYS_EXIT, 127, 0, 0, 0);
	}
	call(SYS_WAIT4, pid, 0, 0, 0);
	mark(3);
	call(SYS_REBOOT, 0xfee1dead, 672274793, 0x4321fedc, 0);
#endif
	for (;;)
		;
}
