/*
 * Messages of any size, kind and number.
 */
#include "client.h"

/* Any msize, and replies as long as it or as the room there is. */
void sizes(struct device *device)
{
	for (u32 bit = 0; bit < 32; bit++) {
		for (u32 off = 0; off < 3; off++) {
			u32 asked = bit == 31 && off == 2 ? ~0u : (1u << bit) + off - 1;
			long error = ask(device, TVERSION, 0xffff, "ds", asked, "9P2000.L");

			want(asked < 4096 ? -EINVAL : 0, error);
			if (error)
				continue;
			u32 msize = u32_at(reply + HEADER);

			want(asked < MSIZE ? asked : MSIZE, msize);
			want(0, ask(device, TATTACH, 1, "ddssd", ROOT, NO_FID, "", "", 0));
			want(2, walk(device, ROOT, 20, "0/file"));
			want(0, ask(device, TLOPEN, 1, "dd", 20, 0));
			want(0, ask(device, TREAD, 1, "dqd", 20, (u64)0, ~0u));
			want(msize, reply_length);
		}
	}
	want(0, ask(device, TVERSION, 0xffff, "ds", 4096, "9P2000.L"));
	want(0, ask(device, TATTACH, 1, "ddssd", ROOT, NO_FID, "", "", 0));
	want(2, walk(device, ROOT, 20, "0/file"));
	want(0, ask(device, TLOPEN, 1, "dd", 20, 2));
	static const u8 data[5000];

	want(-EMSGSIZE, ask(device, TWRITE, 1, "dqdr", 20, (u64)0, 5000, ((struct bytes){ data, 5000 })));
	/* A count that the message does not have. */
	want(-EPROTO, ask(device, TWRITE, 1, "dqdr", 20, (u64)0, 100, ((struct bytes){ data, 99 })));
	want(-EPROTO, ask(device, TWRITE, 1, "dqdr", 20, (u64)0, ~0u, ((struct bytes){ data, 99 })));
	begin_session(device);
	want(1, walk(device, SHARE, 20, "file"));
	want(0, ask(device, TLOPEN, 1, "dd", 20, 0));
	want(1, walk(device, SHARE, 21, "deep"));
	want(0, ask(device, TLOPEN, 1, "dd", 21, 0));
	for (room = 0; room < 200; room++) {
		build(TGETATTR, 1, "dq", 20, ~(u64)0);
		long error = send(device);

		want(room < 11 ? -GARBLED : room < 160 ? -EMSGSIZE : 0, error);
		want(room < 11 ? 0 : room < 160 ? 11 : 160, reply_length);
		build(TREAD, 1, "dqd", 20, (u64)0, ~0u);
		error = send(device);
		want(room < 11 ? -GARBLED : 0, error);
		want(room < 11 ? 0 : room, reply_length);
		build(TREADDIR, 1, "dqd", 21, (u64)0, ~0u);
		error = send(device);
		want(1, reply_length <= room);
	}
	room = sizeof reply;
	want(0, clunk(device, 20));
	want(0, clunk(device, 21));
}

/* A request of each type with nothing, with ones, with zeroes; and sizes that lie. */
void any_message(struct device *device)
{
	static u8 ones[200], zeroes[40];

	memset(ones, 0xff, sizeof ones);
	for (u32 kind = 0; kind < 256; kind++) {
		const struct bytes bodies[] = { { ones, 0 }, { ones, 3 }, { zeroes, 40 }, { ones, 200 } };

		for (u32 i = 0; i < 4; i++) {
			build(kind, kind << 4 | i, "r", bodies[i]);
			add();
		}
		if (added() == QUEUE_SIZE)
			fly(device);
	}
	begin_session(device);
	/* A message that is cut anywhere, and one that says another size than it has. */
	for (u32 length = HEADER; length < 19; length++) {
		build(TGETATTR, 1, "dq", SHARE, (u64)0);
		request_length = length;
		want(-EPROTO, send(device));
	}
	for (u32 i = 0; i < 6; i++) {
		build(TGETATTR, 1, "dq", SHARE, (u64)0);
		memcpy(request, &(u32){ (const u32[]){ 0, 6, 18, 20, 1 << 20, ~0u }[i] }, 4);
		want(-EPROTO, send(device));
	}
	is_served(device);
}

/* The whole queue in flight, half of it flushes, and Tversion in the middle. */
void flight(struct device *device)
{
	for (u32 round = 0; round < 8; round++) {
		want(1, walk(device, SHARE, 20, "file"));
		want(0, ask(device, TLOPEN, 1, "dd", 20, 0));
		for (u32 i = 0; i < QUEUE_SIZE / 2; i++) {
			if (i == 32 && round % 2)
				build(TVERSION, 0xffff, "ds", MSIZE, "9P2000.L");
			else
				build(TREAD, i, "dqd", 20, (u64)i * 4096, 512);
			add();
			build(TFLUSH, 1000 + i, "w", i);
			add();
		}
		fly(device);
		if (round % 2)
			begin_session(device);
		else
			want(0, clunk(device, 20));
	}
	/* One tag for all is no better. */
	for (u32 i = 0; i < QUEUE_SIZE; i++) {
		build(TGETATTR, 5, "dq", SHARE, (u64)0);
		add();
	}
	fly(device);
}

/* 65,536 fids at once, each opened or not, and one after the other forgotten. */
void many_fids(struct device *device)
{
	enum { FIDS = 1 << 16, FIRST = 100000 };

	for (u32 fid = 0; fid < FIDS; fid++) {
		build(TWALK, fid, "ddws", SHARE, FIRST + fid, 1, fid % 2 ? "file" : "deep");
		add();
		if (added() == QUEUE_SIZE)
			fly(device);
	}
	want(1, walk(device, FIRST, 20, "deeper"));
	want(0, clunk(device, 20));
	want(-EINVAL, walk(device, SHARE, FIRST + FIDS - 1, "file"));
	is_served(device);
	/* Files that are open have their own, lower, limit. */
	for (u32 fid = 1; fid < FIDS / 2; fid += 2) {
		build(TLOPEN, fid, "dd", FIRST + fid, 0);
		add();
		if (added() == QUEUE_SIZE)
			fly(device);
	}
	want(-ENFILE, ask(device, TLOPEN, 1, "dd", FIRST + FIDS - 1, 0));
	begin_session(device);
	is_served(device);
}

/* Requests that were right, with some of their bytes changed. */
void mutated(struct device *device)
{
	for (u32 i = 0; i < 4096; i++) {
		u32 fid = any(3) ? 40 + any(8) : any(2) ? SHARE : READ_ONLY;
		u32 other = any(3) ? 40 + any(8) : SHARE;
		const char *const names[] = { "play", "game", "toy", "deep", "door" };
		const char *name = names[any(5)];

		switch (any(16)) {
		case 0:
			build(TWALK, i, "ddws", SHARE, other, 1, name);
			break;
		case 1:
			build(TWALK, i, "ddwss", fid, other, 2, name, "..");
			break;
		case 2:
			build(TLOPEN, i, "dd", fid, any(4));
			break;
		case 3:
			build(TLCREATE, i, "dsddd", fid, name, any(4) | 0100, 0644, 0);
			break;
		case 4:
			build(TREAD, i, "dqd", fid, (u64)any(8192), any(8192));
			break;
		case 5:
			build(TWRITE, i, "dqdr", fid, (u64)any(8192), 5, BYTES("hello"));
			break;
		case 6:
			build(TREADDIR, i, "dqd", fid, (u64)any(20), any(1000));
			break;
		case 7:
			build(TMKDIR, i, "dsdd", fid, name, 0755, 0);
			break;
		case 8:
			build(TSYMLINK, i, "dssd", fid, name, "../outside", 0);
			break;
		case 9:
			build(TRENAMEAT, i, "dsds", fid, name, other, names[any(5)]);
			break;
		case 10:
			build(TUNLINKAT, i, "dsd", other, name, any(2) * 0x200);
			break;
		case 11:
			build(TLINK, i, "dds", fid, other, name);
			break;
		case 12:
			build(TSETATTR, i, "dddddqqqqq", fid, any(512) & ~6, 0755, 0, 0, (u64)any(1 << 16), (u64)0,
			      (u64)0, (u64)0, (u64)0);
			break;
		case 13:
			build(TLOCK, i, "dbdqqds", fid, any(3), any(2), (u64)any(100), (u64)any(100), 1, "x");
			break;
		case 14:
			build(TXATTRWALK, i, "dds", fid, other, "user.x");
			break;
		default:
			build(TCLUNK, i, "d", fid < 40 ? 41 : fid);
		}
		/* The tag stays: the reply is told by it. */
		for (u32 flips = any(4) ? any(4) : 0; flips; flips--) {
			u32 at = any(request_length);

			if (at >= HEADER)
				request[at] = any(256);
		}
		add();
		if (added() == QUEUE_SIZE)
			fly(device);
	}
	begin_session(device);
}
