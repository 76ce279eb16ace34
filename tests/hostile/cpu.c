#include "cpu.h"

enum { APIC = 0xfee00000, APIC_EOI = 0xb0, APIC_SPURIOUS = 0xf0, APIC_COMMAND = 0x300, APIC_TIMER = 0x320 };
enum { SELF = 1 << 18, LOW_GIGABYTES = 4 };

struct gate {
	u16 low, selector;
	u8 stack, type;
	u16 middle;
	u32 high, zero;
};

static struct gate gates[256] __attribute__((aligned(16)));
static volatile u64 faults, interrupts;

/* An instruction of two bytes that faults (RDMSR, WRMSR) is skipped; an interrupt is acknowledged. */
__asm__(".text\n"
	"on_fault:\n"
	"addq $2, 8(%rsp)\n"
	"incq faults(%rip)\n"
	"add $8, %rsp\n"
	"iretq\n"
	"on_interrupt:\n"
	"incq interrupts(%rip)\n"
	"push %rax\n"
	"mov $0xfee000b0, %eax\n"
	"movl $0, (%rax)\n"
	"pop %rax\n"
	"iretq\n");
extern const u8 on_fault[], on_interrupt[];

static void set_gate(u32 vector, const u8 *handler)
{
	u64 at = (u64)handler;
	u16 selector;

	__asm__("mov %%cs, %0" : "=r"(selector));
	gates[vector] = (struct gate){ at, selector, 0, 0x8e, at >> 16, at >> 32, 0 };
}

static void apic(u32 at, u32 value)
{
	*(volatile u32 *)((u64)APIC + at) = value;
}

void prepare_cpu(void)
{
	struct __attribute__((packed)) {
		u16 limit;
		u64 base;
	} table = { sizeof gates - 1, (u64)gates };
	u64 root;

	set_gate(13, on_fault);
	for (u32 vector = 32; vector < 256; vector++)
		set_gate(vector, on_interrupt);
	__asm__ volatile("lidt %0" : : "m"(table));
	apic(APIC_SPURIOUS, 0x1ff);

	__asm__ volatile("mov %%cr3, %0" : "=r"(root));
	u64 *gigabytes = (u64 *)(*(u64 *)(root & ~(u64)0xfff) & ~(u64)0xfff);

	for (u64 i = LOW_GIGABYTES; i < 512; i++)
		gigabytes[i] = i << 30 | 0x83;
	__asm__ volatile("mov %0, %%cr3" : : "r"(root) : "memory");
}

static void cpuid(u32 leaf, u32 part)
{
	u32 b, d;

	__asm__ volatile("cpuid" : "+a"(leaf), "=b"(b), "+c"(part), "=d"(d));
}

void cpuid_storm(void)
{
	for (u32 i = 0; i < 8000; i++)
		cpuid(any(4) << 30 | any(64), any(64));
	for (u32 i = 0; i < 2000; i++)
		cpuid(any(~0u), any(~0u));
}

/* The numbers that processors and KVM use, and any. Not those that would end this program: EFER, the base of the local
 * APIC, the time stamp counter, what traps single steps. */
static u32 any_msr(void)
{
	static const u32 starts[] = { 0, 0x170, 0x200, 0x380, 0x480, 0x600, 0x800, 0xd80, 0x40000000, 0x4b564d00,
				      0xc0000080, 0xc0000100, 0xc0010000, 0xc0010100, 0xc0011000 };
	static const u32 spared[] = { 0x10, 0x1b, 0x3b, 0x1d9, 0xc0000080 };

	for (;;) {
		u32 number = starts[any(sizeof starts / sizeof *starts)] + any(256), i = 0;

		if (!any(8))
			number = any(~0u);
		while (i < sizeof spared / sizeof *spared && spared[i] != number)
			i++;
		if (i == sizeof spared / sizeof *spared)
			return number;
	}
}

void msr_storm(void)
{
	u64 before = faults;

	for (u32 i = 0; i < 4000; i++) {
		u32 number = any_msr(), low = any(~0u), high = any(~0u);

		/* A segment's base is used by nobody here, but must be an address. */
		if (any(2))
			__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(number));
		else
			__asm__ volatile("wrmsr" : : "c"(number), "a"(low), "d"(any(2) ? high | 0x80000000 : 0));
	}
	say("hostile: %u of 4000 were refused", faults - before);
	want(1, faults > before);
	/* Nobody writes to this program's memory for KVM's clocks and queues. */
	for (u32 number = 0x4b564d00; number < 0x4b564d08; number++)
		__asm__ volatile("wrmsr" : : "c"(number), "a"(0), "d"(0));
	apic(APIC_SPURIOUS, 0x1ff);
}

void interrupt_storm(void)
{
	u64 before = interrupts;

	/* None is let in, and then all are. */
	for (u32 i = 0; i < 2000; i++)
		apic(APIC_COMMAND, SELF | (32 + any(224)));
	want(0, interrupts - before);
	__asm__ volatile("sti; nop; nop" ::: "memory");
	/* In memory, and not until it is equal: an emulator was seen to lose flags when it is interrupted here. */
	for (volatile u32 sent = 0; sent < 2000; sent++)
		apic(APIC_COMMAND, SELF | (32 + any(224)));
	__asm__ volatile("cli" ::: "memory");
	say("hostile: %u interrupts", interrupts - before);
	want(1, interrupts - before >= 1000);
}

/* Ports that end the VM when they are told to: its power switch, its reset, its panic. */
static bool ends(u32 port)
{
	return port == 0x64 || (port >= 0x600 && port <= 0x602) || port == 0x505;
}

void any_port(void)
{
	static u8 bytes[4096];
	u32 value;

	/* The serial port is set up for odd things meanwhile, and says what it likes. */
	/* What the VMM does with each port and width is tried without a guest; here are some of all. */
	for (u32 port = any(13); port < 0x10000; port += 1 + any(26)) {
		u16 number = port;
		u32 width = any(3);

		if (ends(port) || ends(port + 1) || ends(port + 2) || ends(port + 3))
			continue;
		value = any(~0u);
		switch (width) {
		case 0:
			__asm__ volatile("outb %b0, %1" : "+a"(value) : "d"(number));
			__asm__ volatile("inb %1, %b0" : "+a"(value) : "d"(number));
			break;
		case 1:
			__asm__ volatile("outw %w0, %1" : "+a"(value) : "d"(number));
			__asm__ volatile("inw %1, %w0" : "+a"(value) : "d"(number));
			break;
		default:
			__asm__ volatile("outl %0, %1" : "+a"(value) : "d"(number));
			__asm__ volatile("inl %1, %0" : "+a"(value) : "d"(number));
		}
	}
	/* Strings. */
	for (u32 i = 0; i < 100; i++) {
		u16 number = any(0x10000);
		u8 *at = bytes;
		u64 count = any(1024);

		if (ends(number) || ends(number + 1) || ends(number + 2) || ends(number + 3))
			continue;
		if (any(2))
			__asm__ volatile("rep insl" : "+D"(at), "+c"(count) : "d"(number) : "memory");
		else
			__asm__ volatile("rep outsb" : "+S"(at), "+c"(count) : "d"(number) : "memory");
	}
	/* The serial port as it was: eight bits, no interrupts. */
	static const u8 serial[][2] = { { 3, 3 }, { 1, 0 }, { 2, 0 }, { 4, 0 } };

	for (u32 i = 0; i < sizeof serial / sizeof *serial; i++)
		__asm__ volatile("outb %b0, %1" : : "a"(serial[i][1]), "d"((u16)(0x3f8 + serial[i][0])));
	say("");
}

/* An access of some width; not of the local APIC, nor of the memory that this program has. */
static void touch(u64 address)
{
	volatile u8 *at = (volatile u8 *)address;
	u64 value = (u64)any(~0u) << 32 | any(~0u);

	if (address < low_memory + 8 || (address >= 0xfec00000 && address < 0xff000000))
		return;
	switch (any(8)) {
	case 0:
		*at = value;
		break;
	case 1:
		*(volatile u16 *)at = value;
		break;
	case 2:
		*(volatile u32 *)at = value;
		break;
	case 3:
		*(volatile u64 *)at = value;
		break;
	case 4:
		(void)*at;
		break;
	case 5:
		(void)*(volatile u16 *)at;
		break;
	case 6:
		(void)*(volatile u32 *)at;
		break;
	default:
		(void)*(volatile u64 *)at;
	}
}

void any_address(void)
{
	/* Everywhere, and then around what is there: the ends of memory, of the devices' windows, of 4 GiB. The windows
	 * themselves are attacked as devices. */
	static const u64 edges[] = { 0xd0018000, 0xd0100000, 0xfebfff00, 0xff000000, 0x100000000, 0x7ffffff000 };

	for (u32 i = 0; i < 3000; i++) {
		u64 address = ((u64)any(~0u) << 12 | any(4096)) & 0x7fffffffff;

		if (address < 0xd0000000 - 8 || address >= 0xd0018000)
			touch(address);
	}
	for (u32 i = 0; i < 1000; i++)
		touch(edges[any(sizeof edges / sizeof *edges)] + any(0x100));
	for (u32 i = 0; i < 1000; i++)
		touch(low_memory + 8 + any(0x10000));
	/* More at a time than a register has. */
	static u8 bytes[256];

	memcpy(bytes, (const void *)0xd0100000, sizeof bytes);
	memcpy((void *)0xd0100000, bytes, sizeof bytes);
	want(0xff, bytes[0]);
}

_Noreturn void spin(void)
{
	for (;;)
		;
}

_Noreturn void exit_for_ever(void)
{
	u8 value;

	for (;;)
		__asm__ volatile("inb $0x80, %0" : "=a"(value));
}

_Noreturn void interrupt_for_ever(void)
{
	__asm__ volatile("sti; nop; nop" ::: "memory");
	for (;;)
		apic(APIC_COMMAND, SELF | 200);
}
