// Checksums of what travels to experts and back. TCP's sixteen bits let one damaged segment in some ten million pass,
// and nothing behind them would notice: wrong activations look like any others.
#ifndef CONCLAVE_MOE_TRANSPORT_CHECKSUM_H_
#define CONCLAVE_MOE_TRANSPORT_CHECKSUM_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "moe/tensor/mat_view.h"
#include "moe/transport/transport.h"

namespace conclave {

// XXH3-64 over everything in a call that decides its result: id, epoch, layer, rows, offsets and expert ids.
// Thread-safe.
uint64_t ChecksumOfCall(const ExpertCall& call);
// XXH3-64 over a reply's rows [pairs, hidden], keyed by the call that they answer.
uint64_t ChecksumOfReply(uint64_t call_id, ConstMatView rows);
// The same of a reply that is an error: its code and text.
uint64_t ChecksumOfError(uint64_t call_id, int code, absl::string_view message);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_CHECKSUM_H_
