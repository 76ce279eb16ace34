/*
 * The bare machine of a guest without a kernel: ports, time, text on the serial port, and the end. There is no
 * library, no interrupt and no fault handler: a fault is a triple fault, which the host sees.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

/* The compiler calls these. */
void *memcpy(void *to, const void *from, size_t length);
void *memset(void *to, int byte, size_t length);
int memcmp(const void *one, const void *other, size_t length);
size_t strlen(const char *text);

/* Cycles of the time stamp counter. */
static inline u64 now(void)
{
	u32 low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (u64)high << 32 | low;
}

static inline void pause(void)
{
	__asm__ volatile("pause" ::: "memory");
}

/* Memory as the device sees it is as the program wrote it. */
static inline void barrier(void)
{
	__asm__ volatile("mfence" ::: "memory");
}

/* Some number below `limit`, the same ones in every run. */
u32 any(u32 limit);

/* Text on the serial port, as printf: %s, %d, %u, %x with 64 bits each. */
void say(const char *format, ...);

/* Says what is wrong, for the first few times; nothing is skipped after it. */
void fail(const char *file, int line, const char *what, long got, long wanted);

/* One check more. */
extern u32 checks, failures;

#define want(wanted, what)                                                   \
	do {                                                                 \
		long got_ = (what), wanted_ = (wanted);                      \
		checks++;                                                    \
		if (got_ != wanted_)                                         \
			fail(__FILE_NAME__, __LINE__, #what, got_, wanted_); \
	} while (0)

/* How many bytes of RAM there are from address 0 on, and from 4 GiB on; the command line. */
extern u64 low_memory, high_memory;
extern const char *command_line;

_Noreturn void power_off(void);

#endif
