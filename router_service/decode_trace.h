// The spans of one sequence at the attention service: the call, and within it queue, prefill and decode. Internal to
// the service.
#ifndef CONCLAVE_ROUTER_SERVICE_DECODE_TRACE_H_
#define CONCLAVE_ROUTER_SERVICE_DECODE_TRACE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "moe/tracing/tracer.h"

namespace conclave {

// How far a sequence has come, and when.
struct DecodeProgress {
  absl::Time admission = absl::InfinitePast();    // got a place; InfinitePast: not yet
  absl::Time first_token = absl::InfinitePast();  // InfinitePast: none yet
  int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0, resumed_tokens = 0;
};

// Ends `call`, which began when the sequence arrived, at `end`, and makes the spans of its phases, as far as it came.
void EndDecodeTrace(Tracer& tracer, Span call, const DecodeProgress& progress, const absl::Status& status,
                    absl::Time end);

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_DECODE_TRACE_H_
