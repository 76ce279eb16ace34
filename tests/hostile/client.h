/* The attacks: each leaves a session with the fids of `begin_session`, and a device that serves. */
#ifndef CLIENT_H
#define CLIENT_H

#include "ninep.h"

void names_that_lead_elsewhere(struct device *device);
void links(struct device *device);
void special_files(struct device *device);
void mounts(struct device *device);
void set_uid(struct device *device);
void fids(struct device *device);
void changes_of_what_is_read_only(struct device *device, u32 directory, const char *file);
void sizes(struct device *device);
void any_message(struct device *device);
void flight(struct device *device);
void many_fids(struct device *device);
void race_with_the_host(struct device *device);
void moves(struct device *device);
void attributes(struct device *device);
void mutated(struct device *device);

void chains_that_are_served(struct device *device);
void chains_that_are_refused(struct device *device, struct device *other);
void queues_that_are_refused(struct device *device, struct device *other);
void memory_that_changes(struct device *device);
void registers(struct device *device);

#endif
