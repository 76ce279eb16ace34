/* What a guest's CPU can do to the host: instructions that leave the guest, interrupts, any port and any address. */
#ifndef CPU_H
#define CPU_H

#include "machine.h"

/* Faults of instructions are survived from here on, interrupts are answered while they are let in, and addresses up to
 * 512 GiB are mapped. */
void prepare_cpu(void);

void cpuid_storm(void);
void msr_storm(void);
void interrupt_storm(void);
void any_port(void);
void any_address(void);

/* These never return. */
_Noreturn void spin(void);
_Noreturn void exit_for_ever(void);
_Noreturn void interrupt_for_ever(void);

#endif
