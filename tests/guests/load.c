/*
 * The guest's program of tests/kills.rs. It says what is there, then "ready"; then it writes records, each with fsync
 * and with a rename that is synced, and says each one's number when it is safe. Between them it does what a package
 * manager does, with nothing synced: files written and renamed over others, a folder filled and emptied; and lets a
 * file grow without end, by as many bytes as its argument says. An error is said as "failed" and why; after one of a record there are no
 * more records.
 *
 * gcc -O1 -Wall -o load load.c
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char bytes[1 << 18];

static void say(const char *text)
{
	if (write(1, text, strlen(text)) < 0)
		exit(1);
}

static void say_failed(const char *what)
{
	char text[128];

	snprintf(text, sizeof(text), "failed: %s: %s\n", what, strerror(errno));
	say(text);
}

/* Copies a file to the output, and returns how many lines it has. */
static long show(const char *name)
{
	int file = open(name, O_RDONLY);
	long lines = 0;
	ssize_t n;

	while (file >= 0 && (n = read(file, bytes, sizeof(bytes))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			lines += bytes[i] == '\n';
		if (write(1, bytes, n) != n)
			exit(1);
	}
	if (file >= 0)
		close(file);
	return lines;
}

/* Writes a file. 0: it went well. */
static int put(const char *name, int flags, const char *from, size_t length, int sync)
{
	int file = open(name, O_WRONLY | O_CREAT | flags, 0644);
	int bad = file < 0 || write(file, from, length) != (ssize_t)length || (sync && fsync(file));

	if (file >= 0)
		bad |= close(file);
	return bad;
}

static int record(long n)
{
	char text[64];
	int folder = open(".", O_RDONLY | O_DIRECTORY), bad = folder < 0;

	snprintf(text, sizeof(text), "record %ld\n", n);
	bad = bad || put("log", O_APPEND, text, strlen(text), 1);
	snprintf(text, sizeof(text), "state %ld\n", n);
	bad = bad || put("new", O_TRUNC, text, strlen(text), 1) || rename("new", "state") || fsync(folder);
	if (folder >= 0)
		close(folder);
	return bad;
}

static int install(long n, size_t growth)
{
	char name[64];
	int bad = 0;

	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "file%d", i);
		bad |= put("other", O_TRUNC, bytes + n % 1000, 3000 + 100 * i, 0) || rename("other", name);
	}
	mkdir("package", 0755);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "package/%ld-%d", n, i);
		bad |= put(name, O_EXCL, bytes, 200 * i, 0);
	}
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "package/%ld-%d", n, i);
		bad |= unlink(name);
	}
	bad |= rmdir("package");
	return bad | put("big", O_APPEND, bytes, growth, 0);
}

int main(int argc, char **argv)
{
	size_t growth = argc > 1 ? strtoul(argv[1], 0, 10) : 0;
	const char *home = getenv("HOME");
	char text[64];
	int failed = 0;
	long n;

	if (!home || chdir(home) || growth > sizeof(bytes))
		return 2;
	n = show("log") + 1;
	show("state");
	unlink("big");
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = rand();
	say("ready\n");
	for (;;) {
		if (!failed && !record(n)) {
			snprintf(text, sizeof(text), "%ld\n", n);
			say(text);
		} else {
			/* Part of the record may be there, but it was not said. No other comes behind it. */
			failed = 1;
			say_failed("a record");
			usleep(100000);
		}
		if (install(n, growth))
			say_failed("the rest");
		n++;
	}
}
