#include "ninep.h"

/* Whoever reads this has read a file outside of the shares. */
static const char CANARY[] = "canary-of-the-host-5e0d";

enum { SLOT = 1024, SCANNED = 1024 };

u8 request[MSIZE + 4096], reply[MSIZE + 4096];
u32 request_length, reply_length, room = sizeof reply;

static u64 last_qid;

u32 u32_at(const u8 *bytes)
{
	u32 value;

	memcpy(&value, bytes, 4);
	return value;
}

static void put(const void *bytes, size_t length)
{
	memcpy(request + request_length, bytes, length);
	request_length += length;
}

static void put_string(const void *bytes, size_t length)
{
	put(&length, 2);
	put(bytes, length);
}

void build(u8 kind, u16 tag, const char *format, ...)
{
	va_list values;

	request_length = 4;
	put(&kind, 1);
	put(&tag, 2);
	va_start(values, format);
	for (; *format; format++) {
		if (*format == 's') {
			const char *text = va_arg(values, const char *);

			put_string(text, strlen(text));
		} else if (*format == 't' || *format == 'r') {
			struct bytes bytes = va_arg(values, struct bytes);

			(*format == 't' ? put_string : put)(bytes.at, bytes.length);
		} else if (*format == 'q') {
			u64 number = va_arg(values, u64);

			put(&number, 8);
		} else {
			u32 number = va_arg(values, u32);

			put(&number, *format == 'b' ? 1 : *format == 'w' ? 2 : 4);
		}
	}
	va_end(values);
	memcpy(request, &request_length, 4);
}

long check_reply(const u8 *bytes, u32 length, u8 kind, u16 tag)
{
	u32 scanned = length < SCANNED ? length : SCANNED;

	for (u32 i = 0; i + sizeof CANARY - 1 <= scanned; i++)
		if (bytes[i] == 'c' && !memcmp(bytes + i, CANARY, sizeof CANARY - 1)) {
			say("hostile: WRONG: a file outside was read");
			failures++;
		}
	if (length < HEADER || u32_at(bytes) != length || (bytes[5] | bytes[6] << 8) != tag)
		return -GARBLED;
	if (bytes[4] == RLERROR && length == HEADER + 4 && u32_at(bytes + HEADER))
		return -(long)u32_at(bytes + HEADER);
	return bytes[4] == (u8)(kind + 1) ? 0 : -GARBLED;
}

long send(struct device *device)
{
	describe(device, 0, request, request_length, NEXT, 1);
	describe(device, 1, reply, room, WRITE, 0);
	publish(device, 0);
	notify(device);
	if (settle(device, false) != RETURNED)
		return -GARBLED;
	reply_length = used_length(device);
	if (reply_length > room)
		return -GARBLED;
	return check_reply(reply, reply_length, request[4], request[5] | request[6] << 8);
}

long walk(struct device *device, u32 fid, u32 new_fid, const char *path)
{
	u16 names = 0;

	build(TWALK, 1, "ddw", fid, new_fid, 0);
	while (*path) {
		size_t length = 0;

		while (path[length] && path[length] != '/')
			length++;
		put_string(path, length);
		path += length + (path[length] == '/');
		names++;
	}
	memcpy(request, &request_length, 4);
	memcpy(request + HEADER + 8, &names, 2);
	long error = send(device);

	if (error)
		return error;
	u16 count = reply[HEADER] | reply[HEADER + 1] << 8;

	if (count > names || reply_length != HEADER + 2 + count * 13u)
		return -GARBLED;
	if (count)
		memcpy(&last_qid, reply + reply_length - 8, 8);
	return count;
}

u64 walked_to(void)
{
	return last_qid;
}

long clunk(struct device *device, u32 fid)
{
	return ask(device, TCLUNK, 1, "d", fid);
}

void begin_session(struct device *device)
{
	want(0, ask(device, TVERSION, 0xffff, "ds", MSIZE, "9P2000.L"));
	want(MSIZE, u32_at(reply + HEADER));
	want(0, ask(device, TATTACH, 1, "ddssd", ROOT, NO_FID, "hostile", "", 0));
	/* The command numbers its shares by their places in the guest: /data, /other. */
	if (!memcmp(device->tag, "nofear-shares", 13)) {
		want(1, walk(device, ROOT, SHARE, "0"));
		want(1, walk(device, ROOT, READ_ONLY, "1"));
	}
}

bool exists(struct device *device, const char *name)
{
	bool is_there = walk(device, SHARE, 9999, name) == 1;

	if (is_there)
		clunk(device, 9999);
	return is_there;
}

void tell(struct device *device, const char *name)
{
	want(0, walk(device, SHARE, 9999, ""));
	want(0, ask(device, TLCREATE, 1, "dsddd", 9999, name, 0301, 0644, 0));
	want(0, clunk(device, 9999));
}

void wait_for(struct device *device, const char *name)
{
	while (!exists(device, name))
		for (u32 i = 0; i < 100000; i++)
			pause();
}

void is_served(struct device *device)
{
	want(1, walk(device, SHARE, 9998, "file"));
	want(0, ask(device, TLOPEN, 1, "dd", 9998, 0));
	want(0, ask(device, TREAD, 1, "dqd", 9998, (u64)4096, 100));
	want(HEADER + 4 + 100, reply_length);
	want(7, reply[HEADER + 4]);
	want(7, reply[HEADER + 4 + 99]);
	want(0, clunk(device, 9998));
}

static u8 requests[QUEUE_SIZE][SLOT], replies[QUEUE_SIZE][SLOT];
static struct descriptor tables[QUEUE_SIZE][2] __attribute__((aligned(16)));
static u32 waiting;

void add(void)
{
	u8 *slot = requests[waiting];

	memcpy(slot, request, request_length);
	tables[waiting][0] = (struct descriptor){ (u64)slot, request_length, NEXT, 1 };
	tables[waiting][1] = (struct descriptor){ (u64)replies[waiting], SLOT, WRITE, 0 };
	waiting++;
}

u32 added(void)
{
	return waiting;
}

void fly(struct device *device)
{
	bool seen[QUEUE_SIZE] = { false };

	for (u32 i = 0; i < waiting; i++) {
		memset(replies[i], 0, HEADER);
		describe(device, i, tables[i], sizeof tables[i], INDIRECT, 0);
		publish(device, i);
	}
	notify(device);
	for (u32 i = 0; i < waiting; i++) {
		if (settle(device, false) != RETURNED) {
			want(RETURNED, STOPPED);
			break;
		}
		u32 head = used_head(device), length = used_length(device);

		want(1, head < waiting && !seen[head] && length <= SLOT);
		if (head >= waiting || length > SLOT)
			continue;
		seen[head] = true;
		const u8 *sent = requests[head];

		want(1, check_reply(replies[head], length, sent[4], sent[5] | sent[6] << 8) != -GARBLED);
	}
	waiting = 0;
}
