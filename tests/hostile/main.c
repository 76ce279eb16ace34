/*
 * A guest that is nothing but a hostile client of the 9P devices: it runs in the kernel's place, with all that a
 * root of a guest could ever have. ../tests/hostile.rs starts it, plays the host's part in the races, and judges by
 * what it says on the serial port and by what is left on the host.
 *
 * gcc -static -nostdlib -ffreestanding -mgeneral-regs-only -mno-red-zone -fno-pic -no-pie -O2
 *     -Wl,-Ttext-segment=0x1000000 -Wl,-N -o hostile *.c
 */
#include "client.h"
#include "cpu.h"
#include "machines.h"

static struct queue queues[2];
static struct device shares, root;

/* Serves nobody but itself: reads the share until the host says that it is over. */
static void behave(void)
{
	u64 rounds = 0;

	while (!exists(&shares, "over")) {
		is_served(&shares);
		rounds++;
		for (u32 i = 0; i < 1000000; i++)
			pause();
	}
	say("hostile: served %u times", rounds);
}

static void step(const char *name)
{
	static u64 began;
	u64 millions = (now() - began) / 1000000;

	say("hostile: %s (the one before: %u million cycles)", name, began ? millions : (u64)0);
	began = now();
	is_served(&shares);
}

static void attack(void)
{
	struct device *device = &shares, *other = &root;

	step("names");
	names_that_lead_elsewhere(device);
	step("links");
	links(device);
	step("special files");
	special_files(device);
	step("mounts and set-uid");
	mounts(device);
	set_uid(device);
	step("fids");
	fids(device);
	step("read-only");
	changes_of_what_is_read_only(device, READ_ONLY, "file");
	want(2, walk(other, ROOT, 5, "usr/bin"));
	changes_of_what_is_read_only(other, 5, "env");
	step("attributes");
	attributes(device);
	step("moves");
	moves(device);
	step("sizes");
	sizes(device);
	step("flight");
	flight(device);
	step("any message");
	any_message(device);
	step("race with the host");
	race_with_the_host(device);
	step("many fids");
	many_fids(device);
	step("chains that are served");
	chains_that_are_served(device);
	step("chains that are refused");
	chains_that_are_refused(device, other);
	step("queues that are refused");
	queues_that_are_refused(device, other);
	step("memory that changes");
	memory_that_changes(device);
	step("registers");
	registers(device);
	step("mutated");
	mutated(device);
	step("the end");
}

/* As `attack`, on all of the machine. */
static void attack_machine(void)
{
	want(1, find_all() >= 4);
	prepare_cpu();
	step("CPUID");
	cpuid_storm();
	step("MSRs");
	msr_storm();
	step("interrupts");
	interrupt_storm();
	step("ports");
	any_port();
	step("addresses");
	any_address();
	static const struct {
		const char *name;
		void (*attack)(void);
	} on_devices[] = {
		{ "registers in any order", registers_in_any_order },
		{ "queues of every size", queues_of_every_size },
		{ "kicks", kicks },
		{ "resets in flight", resets_in_flight },
		{ "every byte of the configuration", every_config_byte },
		{ "packets with wrong fields", packets_with_wrong_fields },
		{ "memory that is ballooned", memory_that_is_ballooned },
	};

	for (u32 i = 0; i < sizeof on_devices / sizeof *on_devices; i++) {
		step(on_devices[i].name);
		on_devices[i].attack();
		/* A device that has had all of it serves. */
		start(&shares);
		start(&root);
		begin_session(&shares);
		begin_session(&root);
	}
	step("the end");
}

/* What never ends by itself; the host ends it. */
static void attack_for_ever(const char *how)
{
	find_all();
	prepare_cpu();
	say("hostile: for ever");
	if (!memcmp(how, "exits", 5))
		exit_for_ever();
	if (!memcmp(how, "interrupts", 10))
		interrupt_for_ever();
	if (!memcmp(how, "kicks", 5))
		kick_for_ever();
	spin();
}

/* What the host asks for. */
static const char *how_to_be(void)
{
	for (const char *at = command_line; *at; at++)
		if (!memcmp(at, "hostile=", 8))
			return at + 8;
	return "yes";
}

void run(void);

void run(void)
{
	find(&shares, &queues[0], "nofear-shares");
	find(&root, &queues[1], "nofear-root");
	if (!shares.there || !root.there) {
		say("hostile: WRONG: no such devices");
		return;
	}
	start(&shares);
	start(&root);
	begin_session(&shares);
	begin_session(&root);
	const char *how = how_to_be();

	if (!memcmp(how, "no", 2))
		behave();
	else if (!memcmp(how, "machine", 7))
		attack_machine();
	else if (!memcmp(how, "yes", 3))
		attack();
	else
		attack_for_ever(how);
	say("hostile: %u checks, %u wrong", (u64)checks, (u64)failures);
}
