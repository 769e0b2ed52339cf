#include "moe/daemon/thread_flags.h"

namespace conclave {

void AddThreadFlags(Flags& flags, ThreadOptions& options) {
  flags.Add("threads", &options.threads, "threads that compute; 0: one for each of --cpus, or for each core");
  flags.Add("cpus", &options.cpus,
            "CPUs such as 0-3,8 to which the process keeps, one computing thread pinned to each; empty: any");
}

}  // namespace conclave
