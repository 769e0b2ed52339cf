// Two transports to the same shards, of which the fast one carries a call where it can.
#ifndef CONCLAVE_MOE_TRANSPORT_DIAL_PREFERRED_TRANSPORT_H_
#define CONCLAVE_MOE_TRANSPORT_DIAL_PREFERRED_TRANSPORT_H_

#include <memory>
#include <vector>

#include "moe/transport/dial/staged_calls.h"
#include "moe/transport/transport.h"
#include "moe/transport/ucx/ucx_transport.h"

namespace conclave {

// Calls go over `fast` to shards that it is connected with at that moment, and over `fallback` to the others: a shard
// that offers no UCX, or whose connection is being made again. Where a shard's way changes, a line of log says so.
// Both must be for the same shards. `staged` carries calls whose rows lie on the device over `fallback`; null where
// `fast` takes none.
std::unique_ptr<Transport> NewPreferredTransport(std::unique_ptr<UcxTransport> fast,
                                                 std::unique_ptr<Transport> fallback,
                                                 std::unique_ptr<StagedCalls> staged = nullptr);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_DIAL_PREFERRED_TRANSPORT_H_
