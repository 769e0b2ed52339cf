// The flags that say what a service computes on, the same for every service that runs a part of a model.
#ifndef CONCLAVE_MOE_DAEMON_TARGET_FLAGS_H_
#define CONCLAVE_MOE_DAEMON_TARGET_FLAGS_H_

#include "moe/daemon/flags.h"
#include "moe/model/device/compute_target.h"

namespace conclave {

// Declares --device, --gpu-memory, --compute and --isa. `options` must outlive parsing; check it by Validate.
void AddTargetFlags(Flags& flags, TargetOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_TARGET_FLAGS_H_
