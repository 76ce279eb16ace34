/*
 * What only a guest can send: descriptor chains, rings and registers that make no sense. A device may refuse them by
 * DEVICE_NEEDS_RESET, alone; after a reset it serves.
 */
#include "client.h"

static const u8 *bytes_at(u64 address)
{
	return (const u8 *)address;
}

/* The device is used anew, and serves; so has the other, all the while. */
static void begin_again(struct device *device, struct device *other)
{
	want(0, ask(other, TGETATTR, 1, "dq", ROOT, (u64)0));
	start(device);
	begin_session(device);
	is_served(device);
}

/* A chain that starts at `head` stops the device. */
#define refused(device, other, head)                     \
	do {                                             \
		publish(device, head);                   \
		notify(device);                          \
		want(STOPPED, settle(device, false));    \
		begin_again(device, other);              \
	} while (0)

static void build_getattr(void)
{
	build(TGETATTR, 1, "dq", SHARE, (u64)0);
}

void chains_that_are_served(struct device *device)
{
	static u8 data[512], back[256];

	/* A request in two pieces, cut anywhere, its reply in pieces of one, ten and the other bytes. */
	for (u32 cut = 0; cut <= 19; cut++) {
		build_getattr();
		describe(device, 7, request, cut, NEXT, 3);
		describe(device, 3, request + cut, request_length - cut, NEXT, 90);
		describe(device, 90, reply, 1, NEXT | WRITE, 91);
		describe(device, 91, reply + 1, 0, NEXT | WRITE, 92);
		describe(device, 92, reply + 1, 10, NEXT | WRITE, 127);
		describe(device, 127, reply + 11, 500, WRITE, 0);
		publish(device, 7);
		notify(device);
		want(RETURNED, settle(device, false));
		want(0, check_reply(reply, used_length(device), TGETATTR, 1));
	}
	/* A Twrite whose head is cut anywhere, and each byte of its head in a piece of its own. */
	for (u32 i = 0; i < sizeof data; i++)
		data[i] = i * 7;
	want(0, walk(device, SHARE, 20, ""));
	want(0, ask(device, TLCREATE, 1, "dsddd", 20, "written", 0102, 0644, 0));
	for (u32 cut = 0; cut <= 24; cut++) {
		build(TWRITE, 1, "dqdr", 20, (u64)cut, sizeof data, ((struct bytes){ data, sizeof data }));
		if (cut < 24) {
			describe(device, 0, request, cut, NEXT, 1);
			describe(device, 1, request + cut, request_length - cut, NEXT, 2);
			describe(device, 2, reply, 100, WRITE, 0);
		} else {
			for (u32 i = 0; i < 24; i++)
				describe(device, i, request + i, 1, NEXT, i + 1);
			describe(device, 24, request + 24, request_length - 24, NEXT, 25);
			describe(device, 25, reply, 100, WRITE, 0);
		}
		publish(device, 0);
		notify(device);
		want(RETURNED, settle(device, false));
		want(0, check_reply(reply, used_length(device), TWRITE, 1));
		want(sizeof data, u32_at(reply + HEADER));
	}
	want(0, ask(device, TREAD, 1, "dqd", 20, (u64)24, sizeof back));
	want(0, memcmp(reply + HEADER + 4, data, sizeof back));
	want(0, clunk(device, 20));
	/* The reply over the request; the request twice, of the same bytes. */
	build_getattr();
	describe(device, 0, request, request_length, NEXT, 1);
	describe(device, 1, request, 200, WRITE, 0);
	publish(device, 0);
	notify(device);
	want(RETURNED, settle(device, false));
	want(0, check_reply(request, used_length(device), TGETATTR, 1));
	build_getattr();
	describe(device, 0, request, request_length, NEXT, 1);
	describe(device, 1, request, request_length, NEXT, 2);
	describe(device, 2, reply, 200, WRITE, 0);
	publish(device, 0);
	notify(device);
	want(RETURNED, settle(device, false));
	want(-EPROTO, check_reply(reply, used_length(device), TGETATTR, 1));
	/* No room for a reply, no request, neither. */
	build_getattr();
	describe(device, 0, request, request_length, 0, 0);
	publish(device, 0);
	notify(device);
	want(RETURNED, settle(device, false));
	want(0, used_length(device));
	describe(device, 0, reply, 200, WRITE, 0);
	publish(device, 0);
	notify(device);
	want(RETURNED, settle(device, false));
	want(-EPROTO, check_reply(reply, used_length(device), 0, 0xffff));
	describe(device, 0, (const void *)~(u64)0, 0, NEXT, 1);
	describe(device, 1, (const void *)~(u64)0, 0, WRITE, 0);
	publish(device, 0);
	notify(device);
	want(RETURNED, settle(device, false));
	want(0, used_length(device));
	/* All of the table in one chain. */
	build_getattr();
	for (u32 i = 0; i < QUEUE_SIZE; i++)
		describe(device, i, reply + i * 4, 4, NEXT | WRITE, i + 1);
	describe(device, 0, request, request_length, NEXT, 1);
	describe(device, QUEUE_SIZE - 1, reply + 2000, 4, WRITE, 0);
	publish(device, 0);
	notify(device);
	want(RETURNED, settle(device, false));
	want(0, check_reply(reply + 4, used_length(device), TGETATTR, 1));
	/* One chain as often as the ring has room. */
	build_getattr();
	describe(device, 0, request, request_length, NEXT, 1);
	describe(device, 1, reply, 200, WRITE, 0);
	for (u32 i = 0; i < QUEUE_SIZE; i++)
		publish(device, 0);
	notify(device);
	for (u32 i = 0; i < QUEUE_SIZE; i++)
		want(RETURNED, settle(device, false));
	/* A message that fills half of the guest's memory, and room in the other half. */
	u64 half = low_memory / 2 & ~(u64)0xfff;

	describe(device, 0, bytes_at(0x400000), half > 0x80000000 ? 0x80000000 : half - 0x400000, NEXT, 1);
	describe(device, 1, reply, 200, WRITE, 0);
	publish(device, 0);
	notify(device);
	want(RETURNED, settle(device, false));
	want(1, used_length(device) == 11);
	is_served(device);
}

void chains_that_are_refused(struct device *device, struct device *other)
{
	static struct descriptor table[4] __attribute__((aligned(16)));

	/* Loops of one, of two and of all; with bytes in them and without. */
	for (u32 length = 0; length < 2; length++) {
		describe(device, 0, request, length, NEXT, 0);
		refused(device, other, 0);
		describe(device, 0, request, length, NEXT, 1);
		describe(device, 1, request, length, NEXT, 0);
		refused(device, other, 0);
		for (u32 i = 0; i < QUEUE_SIZE; i++)
			describe(device, i, request, length, NEXT, (i + 1) % QUEUE_SIZE);
		refused(device, other, 5);
	}
	/* Indices beyond the table. */
	const u16 beyond[] = { QUEUE_SIZE, QUEUE_SIZE + 1, 0x8000, 0xffff };

	for (u32 i = 0; i < 4; i++) {
		refused(device, other, beyond[i]);
		describe(device, 0, request, 19, NEXT, beyond[i]);
		refused(device, other, 0);
	}
	/* Outside of memory: at its end, over its end, in the devices' hole, beyond every address. */
	const struct {
		u64 address;
		u32 length;
	} outside[] = {
		{ low_memory, 1 },	    { low_memory - 1, 2 },
		{ 0xd0000000, 0x1000 },	    { 0xfee00000, 8 },
		{ low_memory / 2, ~0u },    { ~(u64)0, 1 },
		{ ~(u64)0 - 3, 8 },	    { (u64)1 << 63, 19 },
		{ 0x100000000 + high_memory, 1 }, { 0, ~0u },
	};

	for (u32 i = 0; i < sizeof outside / sizeof *outside; i++)
		for (u32 flags = 0; flags <= WRITE; flags += WRITE) {
			build_getattr();
			describe(device, 0, request, request_length, NEXT, 1);
			describe(device, 1, bytes_at(outside[i].address), outside[i].length, flags, 0);
			refused(device, other, 0);
		}
	/* A buffer to read after one to write. */
	build_getattr();
	describe(device, 0, reply, 100, NEXT | WRITE, 1);
	describe(device, 1, request, request_length, 0, 0);
	refused(device, other, 0);
	/* More than 4 GiB in all. */
	u32 large = low_memory / 2;

	for (u32 i = 0; i < QUEUE_SIZE; i++)
		describe(device, i, bytes_at(0x100000), large, i == QUEUE_SIZE - 1 ? 0 : NEXT, i + 1);
	refused(device, other, 0);
	/* Indirect tables: of no or too many entries, cut, outside of memory, inside another, with a successor. */
	const struct {
		u64 address;
		u32 length;
	} tables[] = {
		{ (u64)table, 0 },	   { (u64)table, 15 },
		{ (u64)table, 17 },	   { (u64)table, 16 * 1025 },
		{ (u64)table, ~15u },	   { low_memory - 8, 16 },
		{ 0xd0000000, 16 },	   { ~(u64)15, 16 },
		{ ~(u64)0, 32 },	   { (u64)1 << 52, 16 },
	};

	for (u32 i = 0; i < sizeof tables / sizeof *tables; i++) {
		describe(device, 0, bytes_at(tables[i].address), tables[i].length, INDIRECT, 0);
		refused(device, other, 0);
	}
	table[0] = (struct descriptor){ (u64)table, 16, INDIRECT, 0 };
	describe(device, 0, table, 16, INDIRECT, 0);
	refused(device, other, 0);
	table[0] = (struct descriptor){ (u64)request, 19, 0, 0 };
	describe(device, 0, table, 16, INDIRECT | NEXT, 1);
	refused(device, other, 0);
	table[0] = (struct descriptor){ (u64)request, 1, NEXT, 1 };
	table[1] = (struct descriptor){ (u64)request, 1, NEXT, 0 };
	describe(device, 0, table, 32, INDIRECT, 0);
	refused(device, other, 0);
	table[1] = (struct descriptor){ (u64)request, 1, NEXT, 2 };
	describe(device, 0, table, 32, INDIRECT, 0);
	refused(device, other, 0);
	/* A table that is the queue's own: every entry leads on, and there is no end. */
	describe(device, 0, device->queue->table, sizeof device->queue->table, INDIRECT, 0);
	refused(device, other, 0);
	/* Indices of the ring of available chains that leap further than it is long. */
	const u16 leaps[] = { QUEUE_SIZE + 1, 0x4000, 0x8000, 0xffff };

	for (u32 i = 0; i < 4; i++) {
		device->queue->available.index = device->made + leaps[i];
		barrier();
		notify(device);
		want(STOPPED, settle(device, false));
		begin_again(device, other);
	}
	/* Replies into the queue itself, whatever that does to it. */
	struct queue *queue = device->queue;
	const u64 places[] = { (u64)queue->table, (u64)&queue->available, (u64)&queue->used };

	for (u32 i = 0; i < 3; i++) {
		want(1, walk(device, SHARE, 20, "file"));
		want(0, ask(device, TLOPEN, 1, "dd", 20, 0));
		build(TREAD, 1, "dqd", 20, (u64)0, 600);
		describe(device, 0, request, request_length, NEXT, 1);
		describe(device, 1, bytes_at(places[i]), 700, WRITE, 0);
		publish(device, 0);
		notify(device);
		settle(device, true);
		begin_again(device, other);
	}
	/* Nonsense in all of the table and of the ring. */
	for (u32 round = 0; round < 50; round++) {
		for (u32 i = 0; i < QUEUE_SIZE; i++) {
			u64 address = any(4) ? any(low_memory) & ~0xfffu : (u64)any(~0u) << 32 | any(~0u);

			if (address >= 0x1000000 && address < 0x2000000)
				address = (u64)request;
			/* Nothing is written into the program, or there would be nobody to tell. */
			u16 flags = any(8) & (address == (u64)request || address > low_memory ? ~0u : ~(u32)WRITE);

			describe(device, i, bytes_at(address), any(3) ? any(8192) : any(~0u), flags, any(130));
		}
		for (u32 i = 0; i < QUEUE_SIZE; i++)
			publish(device, any(64) ? any(QUEUE_SIZE) : any(65536));
		notify(device);
		settle(device, true);
		begin_again(device, other);
	}
}

void queues_that_are_refused(struct device *device, struct device *other)
{
	struct queue *queue = device->queue;
	u64 good[] = { (u64)queue->table, (u64)&queue->available, (u64)&queue->used };
	const u64 bad[] = { low_memory, low_memory - 16, 0xd0000000, ~(u64)0xfff, (u64)1 << 63, 0x100000000 + high_memory };

	for (u32 part = 0; part < 3; part++)
		for (u32 i = 0; i < sizeof bad / sizeof *bad; i++) {
			u64 at[] = { good[0], good[1], good[2] };

			at[part] = bad[i];
			start_with(device, QUEUE_SIZE, at[0], at[1], at[2]);
			want(NEEDS_RESET, get(device, STATUS) & NEEDS_RESET);
			publish(device, 0);
			notify(device);
			want(STOPPED, settle(device, true));
			begin_again(device, other);
		}
	/* Sizes that are none leave the queue as long as it was; then what is in it is nonsense, or all is well. */
	const u32 sizes[] = { 0, 1, 3, 127, 129, 256, 32768, 65536, ~0u };

	for (u32 i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		start_with(device, sizes[i], good[0], good[1], good[2]);
		build_getattr();
		describe(device, 0, request, request_length, 0, 0);
		publish(device, 0);
		notify(device);
		settle(device, true);
		begin_again(device, other);
	}
	/* All three parts in one place. */
	start_with(device, QUEUE_SIZE, good[0], good[0], good[0]);
	notify(device);
	settle(device, true);
	begin_again(device, other);
}

void memory_that_changes(struct device *device)
{
	static u8 data[4096];

	want(0, walk(device, SHARE, 20, ""));
	want(0, ask(device, TLCREATE, 1, "dsddd", 20, "torn", 0102, 0644, 0));
	for (u32 round = 0; round < 150; round++) {
		bool writes = round % 2;

		if (writes)
			build(TWRITE, 1, "dqdr", 20, (u64)0, sizeof data, ((struct bytes){ data, sizeof data }));
		else
			build(TWALK, 1, "ddwss", SHARE, 21, 2, "deep", "deeper");
		describe(device, 0, request, request_length, NEXT, 1);
		describe(device, 1, reply, 200, WRITE, 0);
		volatile u8 *torn = request;
		u8 kept[64];

		memcpy(kept, request, sizeof kept);
		publish(device, 0);
		notify(device);
		while (device->queue->used.index == device->seen) {
			u32 at = any(writes ? 24 : request_length);

			torn[at] = any(3) ? "/.\0\xff"[any(4)] : (u8)any(256);
			pause();
			torn[at] = kept[at];
		}
		want(RETURNED, settle(device, false));
		u32 length = used_length(device);

		want(1, length <= 200 && (!length || u32_at(reply) == length));
		if (walk(device, ROOT, 22, "") != 0)
			begin_session(device);
		else
			clunk(device, 22);
		clunk(device, 21);
		if (walk(device, 20, 23, "") == 0)
			clunk(device, 23);
		else {
			clunk(device, 20);
			want(1, walk(device, SHARE, 20, "torn"));
			want(0, ask(device, TLOPEN, 1, "dd", 20, 2));
		}
	}
	begin_session(device);
	is_served(device);
}

void registers(struct device *device)
{
	/* Every register, with every width, in every state of the device. */
	for (u32 state = 0; state < 3; state++) {
		if (state)
			start(device);
		for (u32 at = 0; at < 0x1000; at += at < 0x120 ? 1 : 61) {
			volatile u8 *register_ = device->registers + at;

			if (state == 2 && at >= STATUS && at < STATUS + 4)
				continue;
			(void)*register_;
			*register_ = 0xff;
			(void)*(volatile u16 *)register_;
			*(volatile u16 *)register_ = 0xffff;
			(void)*(volatile u32 *)register_;
			*(volatile u32 *)register_ = any(~0u);
			(void)*(volatile u64 *)register_;
			*(volatile u64 *)register_ = ~(u64)0;
		}
		/* Queues that do not exist are told of chains. */
		for (u32 queue = 1; queue < 40; queue++)
			set(device, NOTIFY, 1u << (queue % 32) | queue);
	}
	/* In use without an agreement on features, or on what was not offered. */
	set(device, STATUS, 0);
	set(device, STATUS, 4);
	want(0, get(device, STATUS) & 4);
	set(device, STATUS, 1);
	set(device, STATUS, 3);
	for (u32 select = 0; select < 3; select++) {
		set(device, FEATURES_SELECT, select);
		set(device, FEATURES, ~0u);
	}
	set(device, STATUS, 1 | 2 | 8);
	want(0, get(device, STATUS) & 8);
	set(device, STATUS, 1 | 2 | 8 | 4);
	want(0, get(device, STATUS) & 4);
	start(device);
	begin_session(device);
	is_served(device);
}
