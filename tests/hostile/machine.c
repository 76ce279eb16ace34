#include "machine.h"

enum { SERIAL = 0x3f8, SLEEP_CONTROL = 0x600, POWER_OFF = 5 << 2 | 1 << 5, MOST_FAILURES = 30 };

u32 checks, failures;
u64 low_memory, high_memory;
const char *command_line;

void *memcpy(void *to, const void *from, size_t length)
{
	void *start = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
	return start;
}

void *memset(void *to, int byte, size_t length)
{
	void *start = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(byte) : "memory");
	return start;
}

int memcmp(const void *one, const void *other, size_t length)
{
	const u8 *a = one, *b = other;

	for (; length; a++, b++, length--)
		if (*a != *b)
			return *a - *b;
	return 0;
}

size_t strlen(const char *text)
{
	size_t length = 0;

	while (text[length])
		length++;
	return length;
}

u32 any(u32 limit)
{
	static u64 state = 0x9e3779b97f4a7c15;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 32) % limit;
}

static void out(u16 port, u8 value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void put_number(u64 number, unsigned base)
{
	if (number >= base)
		put_number(number / base, base);
	out(SERIAL, "0123456789abcdef"[number % base]);
}

static void put(const char *format, va_list values)
{
	for (; *format; format++) {
		if (*format != '%') {
			out(SERIAL, *format);
			continue;
		}
		switch (*++format) {
		case 's':
			put(va_arg(values, const char *), values);
			break;
		case 'd': {
			long number = va_arg(values, long);

			if (number < 0)
				out(SERIAL, '-');
			put_number(number < 0 ? -number : number, 10);
			break;
		}
		case 'u':
			put_number(va_arg(values, u64), 10);
			break;
		default:
			put_number(va_arg(values, u64), 16);
		}
	}
}

void say(const char *format, ...)
{
	va_list values;

	va_start(values, format);
	put(format, values);
	va_end(values);
	out(SERIAL, '\n');
}

void fail(const char *file, int line, const char *what, long got, long wanted)
{
	if (failures++ < MOST_FAILURES)
		say("hostile: WRONG %s:%d: %s is %d, not %d", file, (long)line, what, got, wanted);
}

_Noreturn void power_off(void)
{
	for (;;)
		out(SLEEP_CONTROL, POWER_OFF);
}

void run(void);

/* Linux's boot protocol: rsi has the address of boot_params. */
__attribute__((used)) void begin(const u8 *boot_params)
{
	for (u8 i = 0; i < boot_params[0x1e8]; i++) {
		u64 start, size;
		u32 kind;

		memcpy(&start, boot_params + 0x2d0 + i * 20, 8);
		memcpy(&size, boot_params + 0x2d0 + i * 20 + 8, 8);
		memcpy(&kind, boot_params + 0x2d0 + i * 20 + 16, 4);
		if (kind == 1 && start >> 32)
			high_memory = size;
		else if (kind == 1)
			low_memory = start + size;
	}
	u32 line;

	memcpy(&line, boot_params + 0x228, 4);
	command_line = (const char *)(u64)line;
	run();
	power_off();
}

__asm__(".globl _start\n"
	"_start:\n"
	"lea stack_end(%rip), %rsp\n"
	"mov %rsi, %rdi\n"
	"call begin\n"
	".bss\n"
	".balign 16\n"
	".skip 65536\n"
	"stack_end:\n"
	".text\n");
