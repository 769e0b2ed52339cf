// Between conclave.v1's messages and the engine's own types. Internal to the service.
#ifndef CONCLAVE_ROUTER_SERVICE_DECODE_MESSAGES_H_
#define CONCLAVE_ROUTER_SERVICE_DECODE_MESSAGES_H_

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "conclave/v1/control.pb.h"
#include "router_service/engine.h"

namespace conclave {

// What the call says, as the engine takes it. INVALID_ARGUMENT names the field; ids, lengths and sampling parameters
// are left to Engine::Submit.
absl::StatusOr<EngineRequest> ToEngineRequest(const v1::DecodeRequest& request, absl::Time deadline);

// Adds what an event tells to the message that goes out next.
void AddEvent(const TokenEvent& event, v1::DecodeResponse& message);

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_DECODE_MESSAGES_H_
