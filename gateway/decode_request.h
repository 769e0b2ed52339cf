// From a checked request to what an attention service is asked for: every default is filled in here.
#ifndef CONCLAVE_GATEWAY_DECODE_REQUEST_H_
#define CONCLAVE_GATEWAY_DECODE_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "conclave/v1/control.pb.h"
#include "conclave/v1/inference.pb.h"
#include "gateway/caller.h"
#include "gateway/served_model.h"

namespace conclave {

// 64 bits from the machine's own source of randomness.
uint64_t Random64();

// The first of the request's answers; the others differ in `choice` alone. A seed is drawn where none was given, so
// that a stream which moves to another attention service goes on alike. INVALID_ARGUMENT: a priority ahead of the
// tenant's.
// REQUIRES: ValidateGenerate accepts the request, and 0 < prompt_ids.size() < model.context_max
absl::StatusOr<v1::DecodeRequest> ToDecodeRequest(const ServedModel& model, const Tenant& tenant,
                                                  const v1::GenerateRequest& request, const std::string& request_id,
                                                  const std::vector<int32_t>& prompt_ids);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_DECODE_REQUEST_H_
