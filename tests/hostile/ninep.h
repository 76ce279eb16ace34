/*
 * A client of 9P2000.L that sends what it is told to. Every reply is checked: its size is what the device says,
 * its tag and type are the request's, and the canary of the host's files outside is not in it.
 */
#ifndef NINEP_H
#define NINEP_H

#include "device.h"

enum {
	EPERM = 1,
	ENOENT = 2,
	EBADF = 9,
	EACCES = 13,
	EBUSY = 16,
	EEXIST = 17,
	EXDEV = 18,
	ENOTDIR = 20,
	EISDIR = 21,
	EINVAL = 22,
	ENFILE = 23,
	EFBIG = 27,
	EROFS = 30,
	ENAMETOOLONG = 36,
	ELOOP = 40,
	EPROTO = 71,
	EMSGSIZE = 90,
	EOPNOTSUPP = 95,
	ESTALE = 116,
	/* The reply is none, or not the one to the request. */
	GARBLED = 1000,
};

enum {
	TSTATFS = 8,
	TLOPEN = 12,
	TLCREATE = 14,
	TSYMLINK = 16,
	TMKNOD = 18,
	TRENAME = 20,
	TREADLINK = 22,
	TGETATTR = 24,
	TSETATTR = 26,
	TXATTRWALK = 30,
	TXATTRCREATE = 32,
	TREADDIR = 40,
	TFSYNC = 50,
	TLOCK = 52,
	TGETLOCK = 54,
	TLINK = 70,
	TMKDIR = 72,
	TRENAMEAT = 74,
	TUNLINKAT = 76,
	TWALKOPEN = 82,
	TVERSION = 100,
	TATTACH = 104,
	TFLUSH = 108,
	TWALK = 110,
	TREAD = 116,
	TWRITE = 118,
	TCLUNK = 120,
	TREMOVE = 122,
	RLERROR = 7,
};

enum { MSIZE = 512000, HEADER = 7, NO_FID = 0xffffffff };

/* Of the share that may be changed, in every session. */
enum { ROOT, SHARE, READ_ONLY };

struct bytes {
	const void *at;
	size_t length;
};

#define BYTES(text) ((struct bytes){ text, sizeof text - 1 })

/* The request that is sent next, and the last reply. */
extern u8 request[MSIZE + 4096], reply[MSIZE + 4096];
extern u32 request_length, reply_length;

/* How much room the next replies have. */
extern u32 room;

u32 u32_at(const u8 *bytes);

/* Builds a request: b, w, d and q are numbers of 1, 2, 4 and 8 bytes, s is a string, t struct bytes as a string,
 * r struct bytes as they are. */
void build(u8 kind, u16 tag, const char *format, ...);

/* Sends `request`, whatever it is; 0, or the error of the reply, negative. */
long send(struct device *device);

/* Builds and sends. */
#define ask(device, ...) (build(__VA_ARGS__), send(device))

/* Checks a reply to a request with that type and tag. */
long check_reply(const u8 *bytes, u32 length, u8 kind, u16 tag);

/* Tversion, Tattach, and in the shares' tree the fids of both shares. */
void begin_session(struct device *device);

/* Twalk along a relative path: how many names it came, or the error. */
long walk(struct device *device, u32 fid, u32 new_fid, const char *path);

/* The qid's number of the last name of that walk. */
u64 walked_to(void);

long clunk(struct device *device, u32 fid);

/* Whether an entry of the share is there. */
bool exists(struct device *device, const char *name);

/* Makes an empty file in the share: tells the host something. */
void tell(struct device *device, const char *name);

/* Waits until the host has made such a file. */
void wait_for(struct device *device, const char *name);

/* The file of the share has what it should: the device serves. */
void is_served(struct device *device);

/* Many requests at once: `add` takes what was built, `fly` has all of them answered and checked. */
void add(void);
u32 added(void);
void fly(struct device *device);

#endif
