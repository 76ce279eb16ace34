/*
 * Requests that would lead out of the share, or change what must not change. What the host has made ready is in
 * ../tests/hostile.rs.
 */
#include "client.h"

static struct bytes long_name(size_t length)
{
	static u8 name[300];

	memset(name, 'x', sizeof name);
	return (struct bytes){ name, length };
}

/* Builds the request number `which` that has a name of an entry, with this one: in the share, about the file. */
static bool build_with_name(u32 which, struct bytes name)
{
	struct bytes good = BYTES("no such name");

	switch (which) {
	case 0:
		build(TLCREATE, 1, "dtddd", SHARE, name, 0102, 0644, 0);
		return true;
	case 1:
		build(TSYMLINK, 1, "dtsd", SHARE, name, "target", 0);
		return true;
	case 2:
		build(TMKNOD, 1, "dtdddd", SHARE, name, 0100644, 0, 0, 0);
		return true;
	case 3:
		build(TMKDIR, 1, "dtdd", SHARE, name, 0755, 0);
		return true;
	case 4:
		build(TLINK, 1, "ddt", SHARE, 20, name);
		return true;
	case 5:
		build(TRENAME, 1, "ddt", 20, SHARE, name);
		return true;
	case 6:
		build(TRENAMEAT, 1, "dtdt", SHARE, name, SHARE, good);
		return true;
	case 7:
		build(TRENAMEAT, 1, "dtdt", SHARE, good, SHARE, name);
		return true;
	case 8:
		build(TUNLINKAT, 1, "dtd", SHARE, name, 0);
		return true;
	case 9:
		build(TUNLINKAT, 1, "dtd", SHARE, name, 0x200);
		return true;
	default:
		return false;
	}
}

/* `..`, `/` and their like, in every message and every position. */
void names_that_lead_elsewhere(struct device *device)
{
	const struct bytes bad[] = {
		BYTES(".."),	    BYTES("."),		  BYTES(""),
		BYTES("/"),	    BYTES("../outside"),  BYTES("deep/../../outside"),
		BYTES("outside\0"), BYTES("../made"),	  BYTES("/etc/passwd"),
		BYTES("..\0"),	    BYTES("deep/deeper"),
	};

	want(1, walk(device, SHARE, 20, "file"));
	for (u32 i = 0; i < sizeof bad / sizeof *bad; i++) {
		for (u32 which = 0; build_with_name(which, bad[i]); which++)
			want(-EINVAL, send(device));
		if (i < 2)
			continue;
		want(-EINVAL, ask(device, TWALK, 1, "ddwt", SHARE, 21, 1, bad[i]));
		want(-EINVAL, ask(device, TWALK, 1, "ddwst", SHARE, 21, 2, "deep", bad[i]));
		want(-EINVAL, ask(device, TWALK, 1, "ddwts", SHARE, 21, 2, bad[i], "deep"));
	}
	for (u32 which = 0; build_with_name(which, long_name(256)); which++)
		want(-ENAMETOOLONG, send(device));
	want(-ENAMETOOLONG, ask(device, TWALK, 1, "ddwt", SHARE, 21, 1, long_name(256)));
	want(-ENOENT, ask(device, TWALK, 1, "ddwt", SHARE, 21, 1, long_name(255)));

	want(1, walk(device, ROOT, 21, ".."));
	u64 root = walked_to();

	want(0, clunk(device, 21));
	const char *const above[] = { "..", "../..", "../../../../../../../../../../../../../../..",
				      "deep/deeper/../../../..", "deep/./../../.." };

	for (u32 i = 0; i < sizeof above / sizeof *above; i++) {
		want(1, walk(device, SHARE, 21, above[i]) > 0);
		want(1, walked_to() == root);
		want(-ENOENT, walk(device, 21, 22, "outside"));
		want(-ENOENT, walk(device, 21, 22, "etc"));
		want(0, clunk(device, 21));
	}
	want(0, clunk(device, 20));
}

/* Links that the host has, links planted by this client, and the kernel's own. */
void links(struct device *device)
{
	const char *const target[] = { "../outside", "../outside/canary", "/proc/self/fd", "/proc/self/root", "/" };

	for (u32 i = 0; i < sizeof target / sizeof *target; i++) {
		want(0, ask(device, TSYMLINK, 1, "dssd", SHARE, "planted", target[i], 0));
		want(1, walk(device, SHARE, 20, "planted"));
		const char *const below[] = { "canary", "0", "etc", "..", "." };

		for (u32 k = 0; k < sizeof below / sizeof *below; k++) {
			want(-ENOTDIR, walk(device, 20, 21, below[k]));
			want(0, ask(device, TWALK, 1, "ddwss", SHARE, 21, 2, "planted", below[k]));
			want(1, reply[HEADER]);
			want(-EBADF, clunk(device, 21));
		}
		for (u32 flags = 0; flags < 4; flags++) {
			const u32 how = flags == 3 ? 01001 : flags;

			want(-ELOOP, ask(device, TLOPEN, 1, "dd", 20, how));
			want(-ELOOP, ask(device, TWALKOPEN, 1, "ddd", 20, 23, how));
			want(-EBADF, clunk(device, 23));
		}
		want(-EBADF, ask(device, TREAD, 1, "dqd", 20, (u64)0, 100));
		want(-EBADF, ask(device, TWRITE, 1, "dqdr", 20, (u64)0, 1, BYTES("x")));
		want(-ENOTDIR, ask(device, TMKDIR, 1, "dsdd", 20, "made", 0755, 0));
		want(-ENOTDIR, ask(device, TUNLINKAT, 1, "dsd", 20, "canary", 0));
		want(-ENOTDIR, ask(device, TRENAMEAT, 1, "dsds", 20, "canary", SHARE, "taken"));
		/* Its size is 1 << 3, its mode 1 of Tsetattr's bits. */
		want(-EINVAL, ask(device, TSETATTR, 1, "dddddqqqqq", 20, 8, 0, 0, 0, (u64)0, (u64)0, (u64)0,
				  (u64)0, (u64)0));
		want(0, walk(device, SHARE, 22, ""));
		want(-ELOOP, ask(device, TLCREATE, 1, "dsddd", 22, "planted", 01102, 0644, 0));
		want(0, clunk(device, 22));
		/* A hard link of a link is a link, too: not what it leads to. */
		want(0, ask(device, TLINK, 1, "dds", SHARE, 20, "hard"));
		want(1, walk(device, SHARE, 21, "hard"));
		want(-ELOOP, ask(device, TLOPEN, 1, "dd", 21, 0));
		want(0, clunk(device, 21));
		want(0, clunk(device, 20));
		want(0, ask(device, TUNLINKAT, 1, "dsd", SHARE, "hard", 0));
		want(0, ask(device, TUNLINKAT, 1, "dsd", SHARE, "planted", 0));
	}
	const char *const made[] = { "link", "up", "absolute", "descriptors" };

	for (u32 i = 0; i < sizeof made / sizeof *made; i++) {
		want(1, walk(device, SHARE, 20, made[i]));
		want(-ELOOP, ask(device, TLOPEN, 1, "dd", 20, 0));
		want(-ENOTDIR, walk(device, 20, 21, "canary"));
		want(0, clunk(device, 20));
	}
	/* What is in a read-only share can't be linked into one that may be changed. */
	want(1, walk(device, READ_ONLY, 20, "file"));
	want(-EROFS, ask(device, TLINK, 1, "dds", SHARE, 20, "stolen"));
	want(0, clunk(device, 20));
}

/* FIFOs, sockets and devices: neither opened nor made. */
void special_files(struct device *device)
{
	const char *const names[] = { "fifo", "socket", "null" };
	const u32 flags[] = { 0, 1, 2, 04000, 01001 };

	for (u32 i = 0; i < sizeof names / sizeof *names; i++) {
		if (walk(device, SHARE, 20, names[i]) != 1) {
			/* Only root makes devices. */
			want(0, memcmp(names[i], "null", 4));
			continue;
		}
		for (u32 k = 0; k < sizeof flags / sizeof *flags; k++)
			want(-EACCES, ask(device, TLOPEN, 1, "dd", 20, flags[k]));
		want(-ENOTDIR, ask(device, TLOPEN, 1, "dd", 20, 0200000));
		want(0, walk(device, SHARE, 21, ""));
		want(-EACCES, ask(device, TLCREATE, 1, "dsddd", 21, names[i], 0102, 0644, 0));
		want(0, clunk(device, 21));
		want(0, clunk(device, 20));
	}
	const u32 kinds[] = { 020666, 060666, 0140666, 040755, 0120777, 0170777 };

	for (u32 i = 0; i < sizeof kinds / sizeof *kinds; i++)
		want(-EPERM, ask(device, TMKNOD, 1, "dsdddd", SHARE, "node", kinds[i], 1, 3, 0));
}

/* Other file systems that the host has mounted in the share. */
void mounts(struct device *device)
{
	if (walk(device, SHARE, 20, "mounted/file") != 2)
		/* Only root mounts them. */
		return;
	want(0, clunk(device, 20));
	want(1, walk(device, SHARE, 20, "mounted"));
	want(2, walk(device, 20, 21, "../file"));
	want(0, clunk(device, 21));
	want(2, walk(device, 20, 21, "../../canary"));
	want(-EBADF, clunk(device, 21));
	want(-EXDEV, ask(device, TRENAMEAT, 1, "dsds", 20, "file", SHARE, "taken"));
	want(1, walk(device, SHARE, 21, "file"));
	want(-EXDEV, ask(device, TLINK, 1, "dds", 20, 21, "given"));
	want(0, clunk(device, 21));
	const char *const places[] = { "mounted", "proc" };

	for (u32 i = 0; i < 2; i++) {
		want(-EBUSY, ask(device, TUNLINKAT, 1, "dsd", SHARE, places[i], 0x200));
		want(-EBUSY, ask(device, TRENAMEAT, 1, "dsds", SHARE, places[i], SHARE, "moved"));
	}
	want(-EACCES, walk(device, SHARE, 21, "proc"));
	want(-EACCES, walk(device, SHARE, 21, "proc/self/mem"));
	want(0, clunk(device, 20));
}

/* What a new or a changed file has of set-uid and set-gid. */
static u32 set_id(struct device *device, u32 fid)
{
	want(0, ask(device, TGETATTR, 1, "dq", fid, ~(u64)0));
	return u32_at(reply + HEADER + 8 + 13) & 06000;
}

void set_uid(struct device *device)
{
	want(0, walk(device, SHARE, 20, ""));
	want(0, ask(device, TLCREATE, 1, "dsddd", 20, "program", 0102, 06755, 0));
	want(0, set_id(device, 20));
	want(0, ask(device, TSETATTR, 1, "dddddqqqqq", 20, 1, 06777, 0, 0, (u64)0, (u64)0, (u64)0, (u64)0, (u64)0));
	want(0, set_id(device, 20));
	want(0, clunk(device, 20));
	want(0, ask(device, TMKNOD, 1, "dsdddd", SHARE, "another", 0106755, 0, 0, 0));
	want(1, walk(device, SHARE, 20, "another"));
	want(0, set_id(device, 20));
	want(0, clunk(device, 20));
}

/* Fids that are unknown, in use, none, reused, forgotten. */
void fids(struct device *device)
{
	want(1, walk(device, SHARE, 20, "file"));
	want(-EINVAL, walk(device, SHARE, 20, "deep"));
	want(-EINVAL, ask(device, TATTACH, 1, "ddssd", 20, NO_FID, "", "", 0));
	want(-EINVAL, walk(device, SHARE, NO_FID, "deep"));
	want(-EINVAL, ask(device, TATTACH, 1, "ddssd", 21, 0, "", "", 0));
	want(-ENOENT, ask(device, TATTACH, 1, "ddssd", 21, NO_FID, "", "/etc", 0));
	want(-ENOENT, ask(device, TATTACH, 1, "ddssd", 21, NO_FID, "", "..", 0));
	want(0, clunk(device, 20));
	want(-EBADF, clunk(device, 20));
	want(-EBADF, walk(device, 77, 78, ".."));
	want(-EBADF, ask(device, TLOPEN, 1, "dd", 77, 0));
	want(-EBADF, ask(device, TWALKOPEN, 1, "ddd", 77, 78, 0));
	want(-EINVAL, ask(device, TWALKOPEN, 1, "ddd", SHARE, SHARE, 0));
	want(-EBADF, ask(device, TGETATTR, 1, "dq", 77, ~(u64)0));
	want(-EBADF, ask(device, TREADDIR, 1, "dqd", 77, (u64)0, 100));
	want(-EBADF, ask(device, TRENAME, 1, "dds", 77, SHARE, "x"));
	want(-EBADF, ask(device, TLINK, 1, "dds", SHARE, 77, "x"));
	want(-EBADF, ask(device, TXATTRWALK, 1, "dds", 77, 78, "user.x"));
	/* A file's fid is no directory, and is not opened twice. */
	want(1, walk(device, SHARE, 20, "file"));
	want(-ENOTDIR, walk(device, 20, 21, ".."));
	want(-ENOTDIR, ask(device, TMKDIR, 1, "dsdd", 20, "made", 0755, 0));
	want(0, ask(device, TLOPEN, 1, "dd", 20, 2));
	want(-EBADF, ask(device, TLOPEN, 1, "dd", 20, 0));
	want(-EINVAL, walk(device, 20, 20, ""));
	want(-ENOTDIR, ask(device, TREADDIR, 1, "dqd", 20, (u64)0, 100));
	/* Offsets that no file has. */
	want(-EFBIG, ask(device, TWRITE, 1, "dqdr", 20, ~(u64)0, 2, BYTES("xx")));
	want(-EFBIG, ask(device, TWRITE, 1, "dqdr", 20, (u64)1 << 63, 2, BYTES("xx")));
	want(-EINVAL, ask(device, TREAD, 1, "dqd", 20, (u64)1 << 63, 100));
	/* Tversion in the middle forgets them all. */
	want(0, ask(device, TVERSION, 1, "ds", 8192, "9P2000.L"));
	want(-EBADF, ask(device, TREAD, 1, "dqd", 20, (u64)0, 100));
	want(-EBADF, walk(device, ROOT, 20, ""));
	want(0, ask(device, TVERSION, 1, "ds", 8192, "9P2000.u"));
	want(-EPROTO, ask(device, TATTACH, 1, "ddssd", ROOT, NO_FID, "", "", 0));
	begin_session(device);
}

/* Nothing of a read-only tree changes, whatever is sent. */
void changes_of_what_is_read_only(struct device *device, u32 directory, const char *file)
{
	want(1, walk(device, directory, 20, file));
	for (u32 flags = 0; flags < 5; flags++)
		want(-EROFS, ask(device, TLOPEN, 1, "dd", 20, (const u32[]){ 1, 2, 0100, 01000, 02000 }[flags]));
	want(0, walk(device, directory, 21, ""));
	want(-EROFS, ask(device, TLCREATE, 1, "dsddd", 21, "made", 0102, 0644, 0));
	want(-EROFS, ask(device, TMKDIR, 1, "dsdd", 21, "made", 0755, 0));
	want(-EROFS, ask(device, TSYMLINK, 1, "dssd", 21, "made", "x", 0));
	want(-EROFS, ask(device, TMKNOD, 1, "dsdddd", 21, "made", 0100644, 0, 0, 0));
	want(-EROFS, ask(device, TLINK, 1, "dds", 21, 20, "made"));
	want(-EROFS, ask(device, TRENAME, 1, "dds", 20, 21, "made"));
	want(-EROFS, ask(device, TRENAMEAT, 1, "dsds", 21, file, 21, "made"));
	want(-EROFS, ask(device, TUNLINKAT, 1, "dsd", 21, file, 0));
	for (u32 bit = 0; bit < 9; bit++)
		want(-EROFS, ask(device, TSETATTR, 1, "dddddqqqqq", 20, 1 << bit, 0777, 0, 0, (u64)0, (u64)0,
				 (u64)0, (u64)0, (u64)0));
	want(-EROFS, ask(device, TXATTRCREATE, 1, "dsqd", 20, "user.x", (u64)1, 0));
	want(0, ask(device, TLOPEN, 1, "dd", 20, 0));
	want(-EROFS, ask(device, TWRITE, 1, "dqdr", 20, (u64)0, 1, BYTES("x")));
	want(0, clunk(device, 20));
	want(1, walk(device, directory, 20, file));
	want(-EROFS, ask(device, TREMOVE, 1, "d", 20));
	want(0, clunk(device, 21));
}

/* The host swaps a directory for a link to the outside while it is walked, opened, changed. */
void race_with_the_host(struct device *device)
{
	enum { ROUNDS = 150, EACH = 9 };
	u32 came = 0;

	tell(device, "race");
	for (u32 round = 0; round < ROUNDS; round++) {
		u32 fid = 1000;

		for (u32 i = 0; i + EACH <= QUEUE_SIZE; i += EACH, fid += 4) {
			build(TWALK, i, "ddwss", SHARE, fid, 2, "door", "canary");
			add();
			build(TLOPEN, i + 1, "dd", fid, 0);
			add();
			build(TREAD, i + 2, "dqd", fid, (u64)0, 200);
			add();
			build(TWALK, i + 3, "ddws", SHARE, fid + 1, 1, "door");
			add();
			build(TWALK, i + 4, "ddw", fid + 1, fid + 2, 0);
			add();
			build(TLCREATE, i + 5, "dsddd", fid + 2, "canary", 01102, 0644, 0);
			add();
			build(TWRITE, i + 6, "dqdr", fid + 2, (u64)0, 8, BYTES("harmless"));
			add();
			build(TMKDIR, i + 7, "dsdd", fid + 1, "made", 0755, 0);
			add();
			build(TUNLINKAT, i + 8, "dsd", fid + 1, "made", 0x200);
			add();
		}
		fly(device);
		for (u32 used = 1000; used < fid; used++) {
			build(TCLUNK, used, "d", used);
			add();
		}
		fly(device);
		if (walk(device, SHARE, 20, "door/canary") == 2) {
			if (!ask(device, TLOPEN, 1, "dd", 20, 0) &&
			    !ask(device, TREAD, 1, "dqd", 20, (u64)0, 200))
				came++;
			want(0, clunk(device, 20));
		}
	}
	tell(device, "race-over");
	want(1, came > 0);
	say("hostile: in the race %u of %u reads came", (u64)came, (u64)ROUNDS);
}

/* A directory moves while fids lead to and through it: by this client, then by the host and out of the share. */
void moves(struct device *device)
{
	want(0, ask(device, TMKDIR, 1, "dsdd", SHARE, "a", 0755, 0));
	want(0, ask(device, TMKDIR, 1, "dsdd", SHARE, "b", 0755, 0));
	want(1, walk(device, SHARE, 20, "a"));
	want(0, ask(device, TMKDIR, 1, "dsdd", 20, "c", 0755, 0));
	want(1, walk(device, 20, 21, "c"));
	want(1, walk(device, SHARE, 22, "b"));
	want(0, ask(device, TRENAME, 1, "dds", 20, 22, "moved"));
	want(0, ask(device, TMKDIR, 1, "dsdd", 21, "d", 0755, 0));
	want(3, walk(device, SHARE, 23, "b/moved/c"));
	want(-EINVAL, ask(device, TRENAMEAT, 1, "dsds", SHARE, "b", 21, "loop"));
	want(3, walk(device, 21, 24, "../../.."));
	want(2, walk(device, 24, 25, "deep/deeper"));
	want(0, ask(device, TUNLINKAT, 1, "dsd", 21, "d", 0x200));
	want(0, ask(device, TREMOVE, 1, "d", 21));
	want(-ENOENT, walk(device, 20, 26, "c"));

	want(1, walk(device, SHARE, 30, "leaves"));
	want(2, walk(device, SHARE, 31, "leaves/below"));
	want(3, walk(device, SHARE, 32, "leaves/below/leaf"));
	want(0, ask(device, TLOPEN, 1, "dd", 32, 0));
	want(0, walk(device, 31, 33, ""));
	want(0, ask(device, TLOPEN, 1, "dd", 33, 0));
	tell(device, "move");
	wait_for(device, "has-moved");
	/* The host moved it to outside/taken. Fids keep what they have, and lead to nothing beside it. */
	want(0, ask(device, TREAD, 1, "dqd", 32, (u64)0, 100));
	const char *const ways[] = { "../canary", "../../canary", "../../../canary", "../../outside/canary" };

	for (u32 i = 0; i < sizeof ways / sizeof *ways; i++)
		for (u32 fid = 30; fid < 32; fid++) {
			long came = walk(device, fid, 34, ways[i]);
			u32 names = 1;

			for (const char *at = ways[i]; *at; at++)
				names += *at == '/';
			want(1, came < 0 || came < names);
			want(-EBADF, clunk(device, 34));
		}
	want(-ENOENT, walk(device, SHARE, 34, "leaves"));
	begin_session(device);
}

/* Attributes outside of user.*, and more of them than there may be. */
void attributes(struct device *device)
{
	const char *const names[] = { "security.selinux", "trusted.x", "system.posix_acl_access", "security.capability" };

	want(1, walk(device, SHARE, 20, "file"));
	for (u32 i = 0; i < sizeof names / sizeof *names; i++) {
		want(-EOPNOTSUPP, ask(device, TXATTRWALK, 1, "dds", 20, 21, names[i]));
		want(-EOPNOTSUPP, ask(device, TXATTRCREATE, 1, "dsqd", 20, names[i], (u64)1, 0));
	}
	want(1, ask(device, TXATTRCREATE, 1, "dsqd", 20, "user.x", (u64)1 << 40, 0) < 0);
	long error = 0;
	u32 held = 0;

	for (u32 i = 0; i < 200 && !error; i++) {
		want(0, walk(device, 20, 1000 + i, ""));
		error = ask(device, TXATTRCREATE, 1, "dsqd", 1000 + i, "user.x", (u64)65536, 0);
		held += !error;
	}
	want(-ENFILE, error);
	want(64, held);
	begin_session(device);
}
