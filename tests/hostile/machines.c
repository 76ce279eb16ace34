#include "machines.h"

enum { WINDOWS = 24, WINDOW = 0x1000, BALLOON = 5, VSOCK = 19, CONFIG_END = 0x1000 };
#define FIRST_WINDOW ((volatile u8 *)0xd0000000)

/* Where devices may write what they like: neither this program nor its tables. */
#define PLAYGROUND 0x8000000
#define PLAYGROUND_SIZE 0x1000000

static struct device devices[WINDOWS];
static u32 count;

u32 find_all(void)
{
	count = 0;
	for (u32 window = 0; window < WINDOWS; window++) {
		struct device *device = &devices[count];

		device->registers = FIRST_WINDOW + window * WINDOW;
		if (get(device, MAGIC) == 0x74726976 && get(device, DEVICE_ID))
			count++;
	}
	return count;
}

static struct device *of_kind(u32 kind)
{
	for (u32 i = 0; i < count; i++)
		if (get(&devices[i], DEVICE_ID) == kind)
			return &devices[i];
	return 0;
}

/* Descriptors that lead into the playground and out of memory, and nowhere else. */
static void fill_playground(void)
{
	struct descriptor *at = (struct descriptor *)PLAYGROUND;

	for (u32 i = 0; i < PLAYGROUND_SIZE / sizeof *at; i++) {
		u64 address = PLAYGROUND + any(PLAYGROUND_SIZE);

		if (!any(16))
			address = low_memory + any(~0u);
		/* As a number of a page it is none of the guest's either. */
		at[i] = (struct descriptor){ address, any(8) ? any(4096) << 20 | 0x100000 : any(~0u), any(8), any(256) };
	}
}

static u64 any_place(void)
{
	switch (any(8)) {
	case 0:
		return low_memory - any(4096);
	case 1:
		return low_memory + any(~0u);
	case 2:
		return (u64)any(~0u) << 32 | any(~0u);
	default:
		return PLAYGROUND + (any(PLAYGROUND_SIZE) & ~(any(2) ? 0 : 4095));
	}
}

/* A balloon would take the pages that a ring of nonsense names: it has an attack of its own. */
static bool is_spared(struct device *device)
{
	return get(device, DEVICE_ID) == BALLOON;
}

static void set_place(struct device *device, u32 at, u64 place)
{
	set(device, at, place);
	set(device, at + 4, place >> 32);
}

static void begin(struct device *device)
{
	set(device, STATUS, 0);
	set(device, STATUS, 1);
	set(device, STATUS, 3);
	set(device, FEATURES_SELECT, 1);
	set(device, FEATURES, 1);
	set(device, FEATURES_SELECT, 0);
	set(device, FEATURES, any(2) ? 1 << 28 : 0);
	set(device, STATUS, 11);
}

static void set_up_badly(struct device *device)
{
	begin(device);
	for (u32 queue = 0; queue < 4; queue++) {
		set(device, QUEUE_SELECT, queue);
		set(device, QUEUE_NUMBER, 1 << any(10));
		set_place(device, DESCRIPTORS, any_place() & ~(u64)15);
		set_place(device, AVAILABLE, any_place() & ~(u64)1);
		set_place(device, USED, any_place() & ~(u64)3);
		set(device, QUEUE_READY, 1);
	}
	barrier();
	set(device, STATUS, 15);
}

static void set_up_well(struct device *device)
{
	begin(device);
	for (u32 queue = 0; queue < 4; queue++) {
		u64 at = PLAYGROUND + queue * 0x4000;

		memset((void *)at, 0, 0x4000);
		set(device, QUEUE_SELECT, queue);
		set(device, QUEUE_NUMBER, 64);
		set_place(device, DESCRIPTORS, at);
		set_place(device, AVAILABLE, at + 0x1000);
		set_place(device, USED, at + 0x2000);
		set(device, QUEUE_READY, 1);
	}
	barrier();
	set(device, STATUS, 15);
}

static void reset_all(void)
{
	for (u32 i = 0; i < count; i++) {
		set(&devices[i], STATUS, 0);
		want(0, get(&devices[i], STATUS));
	}
}

void registers_in_any_order(void)
{
	static const u32 places[] = { DESCRIPTORS, DESCRIPTORS + 4, AVAILABLE, AVAILABLE + 4, USED, USED + 4 };
	static const u32 statuses[] = { 0, 1, 2, 3, 4, 8, 11, 15, 128, ~0u };

	fill_playground();
	for (u32 i = 0; i < count; i++) {
		struct device *device = &devices[i];

		for (u32 turn = 0; turn < 500; turn++) {
			u32 at = any(2) ? any(0x100) & ~3u : any(0x100), value = any(2) ? any(300) : any(~0u);
			volatile u8 *place = device->registers + at;

			/* Rings lie where a device may write; a status is often one that goes on. */
			for (u32 k = 0; k < sizeof places / sizeof *places; k++)
				if (at == places[k])
					value = any_place() >> (k % 2 * 32);
			if (at == STATUS)
				value = statuses[any(sizeof statuses / sizeof *statuses)];
			if (at == STATUS && is_spared(device))
				value &= ~4u;
			switch (any(8)) {
			case 0:
				*place = value;
				break;
			case 1:
				*(volatile u16 *)place = value;
				break;
			case 2:
				*(volatile u64 *)place = (u64)any(~0u) << 32 | value;
				break;
			default:
				*(volatile u32 *)place = value;
			}
			(void)*(volatile u32 *)place;
		}
	}
	reset_all();
}

void queues_of_every_size(void)
{
	fill_playground();
	for (u32 i = 0; i < count; i++) {
		struct device *device = &devices[i];

		for (u32 size = 0; size <= 0x10001; size = size < 20 ? size + 1 : size * 2 - any(3)) {
			begin(device);
			for (u32 queue = 0; queue < 4; queue++) {
				set(device, QUEUE_SELECT, queue);
				set(device, QUEUE_NUMBER, size);
				set_place(device, DESCRIPTORS, any_place());
				set_place(device, AVAILABLE, any_place());
				set_place(device, USED, any_place());
				set(device, QUEUE_READY, 1);
			}
			barrier();
			if (!is_spared(device))
				set(device, STATUS, 15);
			for (u32 queue = 0; queue < 4; queue++)
				set(device, NOTIFY, queue);
		}
	}
	reset_all();
}

void kicks(void)
{
	for (u32 i = 0; i < count; i++) {
		set_up_well(&devices[i]);
		for (u32 kick = 0; kick < 500; kick++)
			set(&devices[i], NOTIFY, any(16) ? any(4) : any(~0u));
	}
	reset_all();
}

void resets_in_flight(void)
{
	fill_playground();
	for (u32 i = 0; i < count; i++) {
		struct device *device = &devices[i];

		for (u32 turn = 0; turn < 12; turn++) {
			if (is_spared(device))
				set_up_well(device);
			else
				set_up_badly(device);
			for (u32 queue = 0; queue < 4; queue++)
				set(device, NOTIFY, queue);
			set(device, STATUS, 0);
		}
	}
	reset_all();
}

void every_config_byte(void)
{
	for (u32 i = 0; i < count; i++)
		for (u32 at = CONFIG; at < CONFIG_END - 8; at++) {
			volatile u8 *place = devices[i].registers + at;

			(void)*place;
			(void)*(volatile u16 *)place;
			(void)*(volatile u32 *)place;
			(void)*(volatile u64 *)place;
			if (at < CONFIG + 64) {
				*place = 0xff;
				*(volatile u16 *)place = 0xffff;
				*(volatile u32 *)place = ~0u;
				*(volatile u64 *)place = ~(u64)0;
			}
		}
	reset_all();
}

static struct {
	u64 from, to;
	u32 from_port, to_port, length;
	u16 type, operation;
	u32 flags, room, forwarded;
} __attribute__((packed)) packet;

static struct queue receive, send, events;
static u8 buffers[64][4096], payload[4096];

static void set_queue(struct device *device, u32 number, struct queue *queue)
{
	memset(queue, 0, sizeof *queue);
	set(device, QUEUE_SELECT, number);
	set(device, QUEUE_NUMBER, QUEUE_SIZE);
	set_place(device, DESCRIPTORS, (u64)queue->table);
	set_place(device, AVAILABLE, (u64)&queue->available);
	set_place(device, USED, (u64)&queue->used);
	set(device, QUEUE_READY, 1);
}

static void start_vsock(struct device *device)
{
	begin(device);
	set_queue(device, 0, &receive);
	set_queue(device, 1, &send);
	set_queue(device, 2, &events);
	for (u32 i = 0; i < 64; i++) {
		receive.table[i] = (struct descriptor){ (u64)buffers[i], sizeof buffers[i], WRITE, 0 };
		receive.available.ring[i] = i;
	}
	barrier();
	receive.available.index = 64;
	device->queue = &send;
	device->made = device->seen = 0;
	set(device, STATUS, 15);
	set(device, NOTIFY, 0);
}

/* What has come is read, and there is room again. */
static u32 answers(u16 *seen, u16 operation)
{
	u32 found = 0;

	while (receive.used.index != *seen) {
		u32 head = receive.used.ring[*seen % QUEUE_SIZE].head;
		u16 said;

		memcpy(&said, buffers[head % 64] + 30, sizeof said);
		found += said == operation;
		receive.available.ring[receive.available.index % QUEUE_SIZE] = head;
		barrier();
		receive.available.index++;
		++*seen;
	}
	return found;
}

static void send_packet(struct device *device, u32 header, u32 data)
{
	describe(device, 0, &packet, header, data ? NEXT : 0, 1);
	describe(device, 1, payload, data, 0, 0);
	publish(device, 0);
	set(device, NOTIFY, 1);
	settle(device, true);
	if (get(device, STATUS) & NEEDS_RESET)
		start_vsock(device);
}

static void sane_packet(u16 operation)
{
	memset(&packet, 0, sizeof packet);
	packet.from = 3;
	packet.to = 2;
	packet.from_port = 40000 + any(20000);
	packet.to_port = 1024;
	packet.type = 1;
	packet.operation = operation;
	packet.room = 65536;
}

void packets_with_wrong_fields(void)
{
	enum { REQUEST = 1, RESPONSE = 2, RST = 3, SHUTDOWN = 4, RW = 5, CREDIT_UPDATE = 6, CREDIT_REQUEST = 7 };
	struct device *device = of_kind(VSOCK);
	u16 seen = 0;

	want(1, device != 0);
	if (!device)
		return;
	start_vsock(device);
	/* Each field wrong, alone and together; headers of every length, data that is not what is said. */
	for (u32 turn = 0; turn < 600; turn++) {
		u32 which = 1 << any(9) | (any(4) ? 0 : any(512));

		sane_packet(any(9));
		if (which & 1)
			packet.from = any(2) ? (u64)any(~0u) << 32 | 3 : any(5);
		if (which & 2)
			packet.to = any(2) ? (u64)any(~0u) << 32 | 2 : any(5);
		if (which & 4)
			packet.from_port = any(~0u);
		if (which & 8)
			packet.to_port = any(2) ? any(~0u) : 1024 + any(3);
		if (which & 16)
			packet.length = any(2) ? any(~0u) : any(5000);
		if (which & 32)
			packet.type = any(0x10000);
		if (which & 64)
			packet.operation = any(0x10000);
		if (which & 128)
			packet.flags = any(~0u);
		if (which & 256)
			packet.room = any(2) ? any(~0u) : 0, packet.forwarded = any(~0u);
		send_packet(device, any(16) ? 44 : any(64), any(2) ? 0 : any(4096));
		answers(&seen, 0);
		if (device->made == 0)
			seen = 0;
	}
	/* Connections without end, to a port that is there and to those that are not. */
	start_vsock(device);
	seen = 0;
	for (u32 turn = 0; turn < 600; turn++) {
		sane_packet(REQUEST);
		packet.from_port = turn;
		packet.to_port = turn % 3 ? 1024 : turn;
		send_packet(device, 44, 0);
		answers(&seen, 0);
		if (device->made == 0)
			seen = 0;
	}
	/* It serves. */
	set(device, STATUS, 0);
	start_vsock(device);
	seen = 0;
	sane_packet(REQUEST);
	send_packet(device, 44, 0);
	u32 answered = 0;
	u64 began = now();

	while (!answered && now() - began < 20000000000)
		answered = answers(&seen, RESPONSE) + answers(&seen, RST);
	want(1, answered);
	sane_packet(RST);
	send_packet(device, 44, 0);
	reset_all();
}

void memory_that_is_ballooned(void)
{
	struct device *device = of_kind(BALLOON);
	static u32 pages[1024];
	static struct queue inflate, deflate, report;

	want(1, device != 0);
	if (!device)
		return;
	begin(device);
	set_queue(device, 0, &inflate);
	set_queue(device, 1, &deflate);
	set_queue(device, 2, &report);
	barrier();
	set(device, STATUS, 15);
	for (u32 round = 0; round < 2; round++) {
		/* All of the playground is given away, twice, with pages that are none; and used all the while. */
		for (u32 first = PLAYGROUND >> 12; first < (PLAYGROUND + PLAYGROUND_SIZE) >> 12; first += 512) {
			for (u32 i = 0; i < 1024; i++)
				pages[i] = i % 2 ? first + i / 2 : any(8) ? first + any(512) : (u32)(low_memory >> 12) + any(1 << 20);
			for (u32 way = 0; way < 3; way++) {
				struct queue *queue = way == 0 ? &inflate : way == 1 ? &deflate : &report;

				device->queue = queue;
				device->made = device->seen = queue->used.index;
				if (way == 2)
					describe(device, 0, (const void *)((u64)first << 12), 512 << 12, WRITE, 0);
				else
					describe(device, 0, pages, sizeof pages - any(4), 0, 0);
				publish(device, 0);
				set(device, NOTIFY, way);
				*(volatile u64 *)((u64)first << 12) = round;
				want(RETURNED, settle(device, false));
			}
			*(volatile u64 *)(((u64)first << 12) + 0x100000) = ~(u64)0;
			want(~(u64)0, *(volatile u64 *)(((u64)first << 12) + 0x100000));
		}
	}
	reset_all();
}

_Noreturn void kick_for_ever(void)
{
	for (u32 i = 0; i < count; i++)
		set_up_well(&devices[i]);
	for (;;)
		set(&devices[any(count)], NOTIFY, any(4));
}
