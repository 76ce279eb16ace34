/*
 * A driver of virtio-mmio devices (virtio 1.2, 4.2) that does what its user says, right or wrong.
 */
#ifndef DEVICE_H
#define DEVICE_H

#include "machine.h"

enum {
	QUEUE_SIZE = 128,
	/* Flags of a descriptor. */
	NEXT = 1,
	WRITE = 2,
	INDIRECT = 4,
};

struct descriptor {
	u64 address;
	u32 length;
	u16 flags;
	u16 next;
};

struct queue {
	struct descriptor table[QUEUE_SIZE];
	struct {
		volatile u16 flags, index, ring[QUEUE_SIZE], used_event;
	} available;
	struct {
		volatile u16 flags, index;
		volatile struct {
			u32 head, length;
		} ring[QUEUE_SIZE];
		volatile u16 available_event;
	} used __attribute__((aligned(4)));
} __attribute__((aligned(4096)));

struct device {
	volatile u8 *registers;
	/* Whether there is such a device at all. */
	bool there;
	char tag[40];
	struct queue *queue;
	/* How many chains were made available, and how many were seen used. */
	u16 made, seen;
};

/* The registers of the transport. */
enum {
	MAGIC = 0x00,
	VERSION = 0x04,
	DEVICE_ID = 0x08,
	FEATURES_SELECT = 0x24,
	FEATURES = 0x20,
	QUEUE_SELECT = 0x30,
	QUEUE_NUMBER = 0x38,
	QUEUE_READY = 0x44,
	NOTIFY = 0x50,
	STATUS = 0x70,
	DESCRIPTORS = 0x80,
	AVAILABLE = 0x90,
	USED = 0xa0,
	CONFIG = 0x100,
	NEEDS_RESET = 0x40,
};

u32 get(struct device *device, u32 at);
void set(struct device *device, u32 at, u32 value);

/* The 9P device with this tag. */
void find(struct device *device, struct queue *queue, const char *tag);

/* Resets a device and takes its queue into use, whatever state it is in. */
void start(struct device *device);

/* The same, with a size of the queue and places of its parts that need not make sense. */
void start_with(struct device *device, u32 size, u64 descriptors, u64 available, u64 used);

void describe(struct device *device, u16 index, const void *at, u32 length, u16 flags, u16 next);

/* Makes a chain available; without telling the device of it. */
void publish(struct device *device, u16 head);
void notify(struct device *device);

enum outcome { RETURNED, STOPPED, SILENT };

/* Waits until the device has handed one chain back, or says that it needs a reset. A device that does neither is a
 * failure, unless it is `excused`. */
enum outcome settle(struct device *device, bool excused);

/* The length that the device states of the chain last seen. */
u32 used_length(struct device *device);
u32 used_head(struct device *device);

#endif
