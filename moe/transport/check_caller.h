// Whether a router and a shard fit together, judged by the shard before it serves.
#ifndef CONCLAVE_MOE_TRANSPORT_CHECK_CALLER_H_
#define CONCLAVE_MOE_TRANSPORT_CHECK_CALLER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "moe/transport/expert_handler.h"

namespace conclave {

// FAILED_PRECONDITION, in a sentence, where the caller expects another model, numeric profile or placement epoch than
// `description` has; empty and 0: anything.
absl::Status CheckCaller(const ShardDescription& description, absl::string_view model, absl::string_view profile,
                         uint64_t epoch);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_CHECK_CALLER_H_
