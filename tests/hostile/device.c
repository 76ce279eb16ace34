#include "device.h"

enum { WINDOWS = 24, WINDOW = 0x1000, ID_9P = 9 };
#define FIRST_WINDOW ((volatile u8 *)0xd0000000)

/* Some seconds on every machine; a device that is excused gets a part of one. */
#define LONG 60000000000
#define SHORT 30000000

u32 get(struct device *device, u32 at)
{
	return *(volatile u32 *)(device->registers + at);
}

void set(struct device *device, u32 at, u32 value)
{
	*(volatile u32 *)(device->registers + at) = value;
}

void find(struct device *device, struct queue *queue, const char *tag)
{
	for (u32 window = 0; window < WINDOWS; window++) {
		device->registers = FIRST_WINDOW + window * WINDOW;
		if (get(device, MAGIC) != 0x74726976 || get(device, DEVICE_ID) != ID_9P)
			continue;
		u16 length = device->registers[CONFIG] | device->registers[CONFIG + 1] << 8;

		for (u16 i = 0; i < length && i < sizeof device->tag - 1; i++)
			device->tag[i] = device->registers[CONFIG + 2 + i];
		if (strlen(device->tag) == strlen(tag) && !memcmp(device->tag, tag, strlen(tag))) {
			device->there = true;
			device->queue = queue;
			return;
		}
		memset(device->tag, 0, sizeof device->tag);
	}
}

void start_with(struct device *device, u32 size, u64 descriptors, u64 available, u64 used)
{
	set(device, STATUS, 0);
	memset(device->queue, 0, sizeof *device->queue);
	device->made = device->seen = 0;
	set(device, STATUS, 1);
	set(device, STATUS, 1 | 2);
	/* VIRTIO_F_VERSION_1 and VIRTIO_RING_F_INDIRECT_DESC; not the event index: every chain is announced. */
	set(device, FEATURES_SELECT, 1);
	set(device, FEATURES, 1);
	set(device, FEATURES_SELECT, 0);
	set(device, FEATURES, 1 << 28);
	set(device, STATUS, 1 | 2 | 8);
	set(device, QUEUE_SELECT, 0);
	set(device, QUEUE_NUMBER, size);
	set(device, DESCRIPTORS, descriptors);
	set(device, DESCRIPTORS + 4, descriptors >> 32);
	set(device, AVAILABLE, available);
	set(device, AVAILABLE + 4, available >> 32);
	set(device, USED, used);
	set(device, USED + 4, used >> 32);
	set(device, QUEUE_READY, 1);
	barrier();
	set(device, STATUS, 1 | 2 | 8 | 4);
}

void start(struct device *device)
{
	struct queue *queue = device->queue;

	start_with(device, QUEUE_SIZE, (u64)queue->table, (u64)&queue->available, (u64)&queue->used);
}

void describe(struct device *device, u16 index, const void *at, u32 length, u16 flags, u16 next)
{
	device->queue->table[index] = (struct descriptor){ (u64)at, length, flags, next };
}

void publish(struct device *device, u16 head)
{
	device->queue->available.ring[device->made % QUEUE_SIZE] = head;
	barrier();
	device->queue->available.index = ++device->made;
	barrier();
}

void notify(struct device *device)
{
	set(device, NOTIFY, 0);
}

enum outcome settle(struct device *device, bool excused)
{
	u64 began = now();

	for (u32 turn = 1;; turn++) {
		if (device->queue->used.index != device->seen) {
			device->seen++;
			barrier();
			return RETURNED;
		}
		pause();
		if (turn % 4096)
			continue;
		if (get(device, STATUS) & NEEDS_RESET)
			return STOPPED;
		if (now() - began > (excused ? SHORT : LONG))
			break;
	}
	if (!excused) {
		say("hostile: WRONG: %s does not answer", device->tag);
		power_off();
	}
	return SILENT;
}

u32 used_length(struct device *device)
{
	return device->queue->used.ring[(u16)(device->seen - 1) % QUEUE_SIZE].length;
}

u32 used_head(struct device *device)
{
	return device->queue->used.ring[(u16)(device->seen - 1) % QUEUE_SIZE].head;
}
