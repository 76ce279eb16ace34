/*
 * The guest of `cargo xtask bench files`: an init that mounts the trees /usr and /tree over 9P, or over virtio-fs
 * if the kernel's command line says `virtiofs`, does the work that `bench=NAME` there names, once cold and once
 * warm, and powers off. CPUID with a leaf of its own, which always leaves the guest, marks each beginning and
 * end in the host's trace (kvm:kvm_cpuid), whatever VMM runs it. If anything fails it ends without the marks.
 *
 * gcc -static -O1 -o files files.c
 *
 * As `files make DIRECTORY` it makes the trees' files.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOSE "trans=virtio,version=9p2000.L,msize=507928,access=any,noxattr,cache=loose"
#define SHARED "trans=virtio,version=9p2000.L,msize=507928,access=any,cache=mmap"

enum { MEBI = 1 << 20, BIG = 64, READERS = 4, FOLDERS = 100, FILES = 50, SMALL = 2048, WRITTEN = 2000, SOURCES = 50 };

static char buffer[MEBI];

static void mark(unsigned step)
{
	unsigned eax = 0x4e4f4600 + step, ebx, ecx = 0, edx;

	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
}

/* There is no console but the kernel's log, of which what is critical is shown. */
static void fail(const char *what)
{
	int log = open("/dev/kmsg", O_WRONLY);

	dprintf(log >= 0 ? log : 2, "<2>files: %s: %m\n", what);
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	exit(1);
}

static void check(int ok, const char *what)
{
	if (!ok)
		fail(what);
}

static long read_file(const char *path)
{
	long total = 0, n;
	int file = open(path, O_RDONLY);

	check(file >= 0, path);
	while ((n = read(file, buffer, sizeof buffer)) > 0)
		total += n;
	check(n == 0, path);
	close(file);
	return total;
}

static void write_file(const char *path, long bytes)
{
	int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	check(file >= 0, path);
	for (long n; bytes > 0; bytes -= n) {
		n = write(file, buffer, bytes < MEBI ? bytes : MEBI);
		check(n > 0, path);
	}
	check(close(file) == 0, path);
}

static void sequential(void)
{
	check(read_file("/tree/big/0") == BIG * MEBI / READERS, "/tree/big/0");
	for (int i = 1; i < READERS; i++) {
		char path[64];
		sprintf(path, "/tree/big/%d", i);
		read_file(path);
	}
}

static void at_once(void)
{
	for (int i = 0; i < READERS; i++) {
		char path[64];
		sprintf(path, "/tree/big/%d", i);
		if (fork() == 0) {
			read_file(path);
			_exit(0);
		}
	}
	for (int i = 0, status; i < READERS; i++)
		check(wait(&status) > 0 && status == 0, "a reader");
}

static int entries;

static int count(const char *path, const struct stat *stat, int type, struct FTW *at)
{
	(void)path, (void)stat, (void)at;
	check(type != FTW_NS && type != FTW_DNR, path);
	entries++;
	return 0;
}

static void find(void)
{
	entries = 0;
	check(nftw("/tree/small", count, 16, FTW_PHYS) == 0, "walk");
	check(entries == 1 + FOLDERS * (1 + FILES), "entries of the walk");
}

static int read_one(const char *path, const struct stat *stat, int type, struct FTW *at)
{
	(void)stat, (void)at;
	if (type == FTW_F)
		check(read_file(path) == SMALL, path);
	return 0;
}

static void small(void)
{
	check(nftw("/tree/small", read_one, 16, FTW_PHYS) == 0, "walk");
}

static void run(char *const arguments[])
{
	int status;

	if (fork() == 0) {
		int nothing = open("/dev/null", O_RDWR);
		dup2(nothing, 0), dup2(nothing, 1);
		setenv("PATH", "/usr/bin", 1), setenv("HOME", "/tmp", 1), setenv("LD_LIBRARY_PATH", "/usr/lib", 1);
		execv(arguments[0], arguments);
		_exit(127);
	}
	check(wait(&status) > 0 && status == 0, arguments[0]);
}

static void git(void)
{
	char *arguments[] = { "/usr/bin/git", "--no-optional-locks", "--git-dir=/tree/git", "--work-tree=/tree/small",
			      "status", "--short", 0 };

	run(arguments);
}

static void compile(void)
{
	for (int i = 0; i < SOURCES; i++) {
		char path[64];
		char *arguments[] = { "/usr/bin/gcc", "-c", "-o", "/tmp/out.o", path, 0 };
		sprintf(path, "/tree/source/%d.c", i);
		run(arguments);
	}
}

static void write_big(void)
{
	write_file("/tree/written", BIG * MEBI);
}

static void write_small(void)
{
	for (int i = 0; i < WRITTEN; i++) {
		char path[64];
		sprintf(path, "/tree/w%d", i);
		write_file(path, SMALL);
	}
}

/* The writing ones are not repeated: there is nothing warm to find. */
static const struct {
	const char *name;
	void (*work)(void);
	int writes;
} WORK[] = {
	{ "sequential", sequential, 0 }, { "at-once", at_once, 0 }, { "find", find, 0 }, { "small", small, 0 },
	{ "git", git, 0 }, { "compile", compile, 0 }, { "write-big", write_big, 1 }, { "write-small", write_small, 1 },
};

static void make(const char *directory)
{
	char path[64];

	check(chdir(directory) == 0, directory);
	mkdir("big", 0755), mkdir("small", 0755), mkdir("source", 0755);
	for (int i = 0; i < READERS; i++) {
		sprintf(path, "big/%d", i);
		write_file(path, (long)BIG * MEBI / READERS);
	}
	for (int i = 0; i < FOLDERS; i++) {
		sprintf(path, "small/%d", i);
		mkdir(path, 0755);
		for (int k = 0; k < FILES; k++) {
			sprintf(path, "small/%d/%d", i, k);
			write_file(path, SMALL);
		}
	}
	for (int i = 0; i < SOURCES; i++) {
		sprintf(path, "source/%d.c", i);
		FILE *file = fopen(path, "w");
		check(file != 0, path);
		fprintf(file, "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
			      "int f%d(const char *s) { return printf(\"%%s\", s) + (int)strlen(s) + %d; }\n", i, i);
		fclose(file);
	}
}

static int virtiofs;

static void mount_tree(const char *tag, const char *at, unsigned long flags, const char *options)
{
	mkdir(at, 0755);
	check(mount(tag, at, virtiofs ? "virtiofs" : "9p", flags, virtiofs ? 0 : options) == 0, at);
}

int main(int count, char **arguments)
{
	char line[4096] = "";

	if (count == 3 && strcmp(arguments[1], "make") == 0) {
		make(arguments[2]);
		return 0;
	}
	mkdir("/proc", 0755), mkdir("/tmp", 0755);
	mount("dev", "/dev", "devtmpfs", 0, 0);
	check(mount("proc", "/proc", "proc", 0, 0) == 0, "/proc");
	check(mount("tmp", "/tmp", "tmpfs", 0, 0) == 0, "/tmp");
	int file = open("/proc/cmdline", O_RDONLY);
	check(read(file, line, sizeof line - 1) > 0, "/proc/cmdline");
	virtiofs = strstr(line, "virtiofs") != 0;
	char *name = strstr(line, "bench=");
	check(name != 0, "bench=");
	name += strlen("bench=");
	name[strcspn(name, " \n")] = 0;
	mount_tree("usr", "/usr", MS_RDONLY, LOOSE);
	check(symlink("/usr/lib", "/lib") == 0 && symlink("/usr/lib", "/lib64") == 0, "/lib");
	for (unsigned i = 0; i < sizeof WORK / sizeof *WORK; i++) {
		if (strcmp(name, WORK[i].name) != 0)
			continue;
		mount_tree("tree", "/tree", WORK[i].writes ? 0 : MS_RDONLY, WORK[i].writes ? SHARED : LOOSE);
		mark(0x10);
		WORK[i].work();
		mark(0x11);
		if (!WORK[i].writes) {
			mark(0x12);
			WORK[i].work();
			mark(0x13);
		}
	}
	mark(0x20);
	reboot(RB_POWER_OFF);
	return 1;
}
