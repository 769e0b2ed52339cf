// The flags that say on which cores a service computes.
#ifndef CONCLAVE_MOE_DAEMON_THREAD_FLAGS_H_
#define CONCLAVE_MOE_DAEMON_THREAD_FLAGS_H_

#include "moe/base/thread_options.h"
#include "moe/daemon/flags.h"

namespace conclave {

// Declares --threads and --cpus. `options` must outlive parsing; check it by PlanThreads.
void AddThreadFlags(Flags& flags, ThreadOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_THREAD_FLAGS_H_
