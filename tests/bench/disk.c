/*
 * The guest of `cargo xtask bench disk`: an init that reads and writes /dev/vda past the page cache, with no
 * library. Before and after each load it executes CPUID with a leaf of its own, which always leaves the guest,
 * so that the host's trace (kvm:kvm_cpuid) has its time whatever VMM runs it: 0x4e4f4600 + 2 * load, and one
 * more at its end. The loads are those of disk.sh, in its order.
 *
 * gcc -static -nostdlib -ffreestanding -fno-stack-protector -fno-tree-loop-distribute-patterns -O2 -o disk disk.c; with -DCOLD
 * only the loads that read at random.
 */
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { RANDOM = 2000, DEPTH = 32, FLUSHED = 500 };
static const long SMALL = 4096, LARGE = 1 << 20, SIZE = 64 << 20;

static char buffers[DEPTH * (1 << 20)] __attribute__((aligned(4096)));
static int disk;

static long call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static void mark(unsigned step)
{
	unsigned eax = 0x4e4f4600 + step, ebx, ecx = 0, edx;

	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
}

/* Says what failed on the console, and powers off without the marks that are still to come. */
static void stop(const char *why)
{
	long length = 0;

	while (why && why[length])
		length++;
	if (why)
		call(SYS_write, 2, (long)why, length, 0, 0, 0);
	call(SYS_reboot, 0xfee1dead, 672274793, 0x4321fedc, 0, 0, 0);
	for (;;)
		;
}

static void need(int fine, const char *why)
{
	if (!fine)
		stop(why);
}

/* The position of request `index`: one after the other, or by a linear congruential generator. */
static long position(long index, long size, int random)
{
	static unsigned long state = 1;

	if (!random)
		return index * size % SIZE;
	state = state * 6364136223846793005 + 1442695040888963407;
	return (state >> 33) % (SIZE / size) * size;
}

/* Requests one after the other; `flush`: each is followed by a flush. */
static void one_by_one(int write, int random, long size, long count, int flush)
{
	long number = write ? SYS_pwrite64 : SYS_pread64;

	for (long i = 0; i < count; i++) {
		long moved = call(number, disk, (long)buffers, size, position(i, size, random), 0, 0);
		need(moved == size, "bench: a request failed\n");
		if (flush)
			need(call(SYS_fdatasync, disk, 0, 0, 0, 0, 0) == 0, "bench: a flush failed\n");
	}
}

static struct {
	int fd;
	unsigned *head, *tail, *mask, *array;
	struct io_uring_sqe *entries;
	unsigned *done_head, *done_tail, *done_mask;
	struct io_uring_cqe *done;
} ring;

static void make_ring(void)
{
	static struct io_uring_params p;
	char *queues, *entries;

	ring.fd = call(SYS_io_uring_setup, DEPTH, (long)&p, 0, 0, 0, 0);
	need(ring.fd >= 0 && p.features & IORING_FEAT_SINGLE_MMAP, "bench: no io_uring\n");
	long size = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	long submitted = p.sq_off.array + p.sq_entries * sizeof(unsigned);
	int protection = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
	queues = (char *)call(SYS_mmap, 0, size > submitted ? size : submitted, protection, flags, ring.fd,
			      IORING_OFF_SQ_RING);
	entries = (char *)call(SYS_mmap, 0, p.sq_entries * sizeof(struct io_uring_sqe), protection, flags, ring.fd,
			       IORING_OFF_SQES);
	need((unsigned long)queues < -4096UL && (unsigned long)entries < -4096UL, "bench: io_uring's memory\n");
	ring.head = (unsigned *)(queues + p.sq_off.head);
	ring.tail = (unsigned *)(queues + p.sq_off.tail);
	ring.mask = (unsigned *)(queues + p.sq_off.ring_mask);
	ring.array = (unsigned *)(queues + p.sq_off.array);
	ring.entries = (struct io_uring_sqe *)entries;
	ring.done_head = (unsigned *)(queues + p.cq_off.head);
	ring.done_tail = (unsigned *)(queues + p.cq_off.tail);
	ring.done_mask = (unsigned *)(queues + p.cq_off.ring_mask);
	ring.done = (struct io_uring_cqe *)(queues + p.cq_off.cqes);
}

static void put(int write, long size, int slot, long where)
{
	unsigned tail = *ring.tail, index = tail & *ring.mask;
	struct io_uring_sqe *entry = &ring.entries[index];

	*entry = (struct io_uring_sqe){
		.opcode = write ? IORING_OP_WRITE : IORING_OP_READ,
		.fd = disk,
		.addr = (unsigned long)(buffers + slot * size),
		.len = size,
		.off = where,
		.user_data = slot,
	};
	ring.array[index] = index;
	__atomic_store_n(ring.tail, tail + 1, __ATOMIC_RELEASE);
}

/* Requests with DEPTH of them under way: whoever has ended is followed by another. */
static void many(int write, int random, long size, long count)
{
	long started = 0, ended = 0;
	int waiting = 0;

	for (; started < DEPTH && started < count; started++, waiting++)
		put(write, size, started, position(started, size, random));
	while (ended < count) {
		long went = call(SYS_io_uring_enter, ring.fd, waiting, 1, IORING_ENTER_GETEVENTS, 0, 0);
		need(went == waiting, "bench: io_uring takes no requests\n");
		waiting = 0;
		unsigned head = *ring.done_head;
		for (; head != __atomic_load_n(ring.done_tail, __ATOMIC_ACQUIRE); head++, ended++) {
			struct io_uring_cqe *done = &ring.done[head & *ring.done_mask];
			need(done->res == size, "bench: a request failed\n");
			if (started < count) {
				put(write, size, done->user_data, position(started, size, random));
				started++, waiting++;
			}
		}
		__atomic_store_n(ring.done_head, head, __ATOMIC_RELEASE);
	}
}

static void load(int number, int write, int random, int deep, int flush)
{
	long size = random ? SMALL : LARGE, count = random ? (flush ? FLUSHED : RANDOM) : SIZE / size;

	mark(2 * number);
	if (deep)
		many(write, random, size, count);
	else
		one_by_one(write, random, size, count, flush);
	if (write && !flush)
		need(call(SYS_fdatasync, disk, 0, 0, 0, 0, 0) == 0, "bench: the flush failed\n");
	mark(2 * number + 1);
}

void _start(void)
{
	call(SYS_mount, (long)"dev", (long)"/dev", (long)"devtmpfs", 0, 0, 0);
	disk = call(SYS_openat, AT_FDCWD, (long)"/dev/vda", O_RDWR | 040000 /* O_DIRECT */, 0, 0, 0);
	need(disk >= 0, "bench: no /dev/vda\n");
	make_ring();
	for (long i = 0; i < (long)sizeof(buffers); i += 4)
		*(unsigned *)(buffers + i) = i * 2654435761;
#ifdef COLD
	load(3, 0, 1, 0, 0);
	load(4, 0, 1, 1, 0);
#else
	load(1, 0, 0, 0, 0);
	load(2, 0, 0, 1, 0);
	load(3, 0, 1, 0, 0);
	load(4, 0, 1, 1, 0);
	load(5, 1, 0, 0, 0);
	load(6, 1, 0, 1, 0);
	load(7, 1, 1, 0, 0);
	load(8, 1, 1, 1, 0);
	load(9, 1, 1, 0, 1);
#endif
	stop(0);
}
