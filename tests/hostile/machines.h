/* Attacks on all virtio devices of the machine, whatever they are, by their registers and rings. */
#ifndef MACHINES_H
#define MACHINES_H

#include "device.h"

/* Finds them; how many there are. */
u32 find_all(void);

void registers_in_any_order(void);
void queues_of_every_size(void);
void kicks(void);
void resets_in_flight(void);
void every_config_byte(void);
void packets_with_wrong_fields(void);
void memory_that_is_ballooned(void);

_Noreturn void kick_for_ever(void);

#endif
