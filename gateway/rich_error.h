// Refusals in gRPC's own words: google.rpc details that standard clients decode.
#ifndef CONCLAVE_GATEWAY_RICH_ERROR_H_
#define CONCLAVE_GATEWAY_RICH_ERROR_H_

#include "absl/status/status.h"

namespace conclave {

// The same status with details for ToGrpcStatus, as far as it says anything (gateway/refusal.h): BadRequest with the
// field that is wrong, QuotaFailure with the limit, RetryInfo with the time.
absl::Status WithGrpcDetails(absl::Status status);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_RICH_ERROR_H_
