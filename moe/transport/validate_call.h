// The checks that every activation message passes before anything is computed, whatever carried it.
#ifndef CONCLAVE_MOE_TRANSPORT_VALIDATE_CALL_H_
#define CONCLAVE_MOE_TRANSPORT_VALIDATE_CALL_H_

#include <cstdint>

#include "absl/status/status.h"
#include "moe/base/limits.h"
#include "moe/transport/transport.h"

namespace conclave {

// What a receiver takes. The defaults are the limits of any model; a shard knows its own hidden size.
struct CallLimits {
  int hidden = 0;  // columns of every row; 0: any up to limits::kHiddenMax
  int rows_max = limits::kCallRowsMax;
  int64_t bytes_max = limits::kCallBytesMax;  // of the rows of the request, and of those of the reply
  bool device_rows = false;                   // rows may lie in the memory of a device
};

// Checks dtype, shape, offsets, ids and sizes of `call`. Reads nothing of the rows themselves.
// INVALID_ARGUMENT names the field that is out of range, spelled as in conclave.v1.ExpertRequest.
absl::Status ValidateExpertCall(const ExpertCall& call, const CallLimits& limits);

// Whether every value in `rows`, which ValidateExpertCall accepted, is a finite number. INVALID_ARGUMENT names the
// first row that is not. REQUIRES: rows in this process's memory
absl::Status ValidateRowValues(const ConstMatView& rows);

// Whether `out` can take the reply: [pairs, hidden] of the rows' dtype, where the rows are. INVALID_ARGUMENT says what
// differs.
absl::Status ValidateReplyView(const ExpertCall& call, const MatView& out);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_VALIDATE_CALL_H_
