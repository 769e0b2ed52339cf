// One request through an engine in this process, waited for.
#ifndef CONCLAVE_CLI_RUN_REQUEST_H_
#define CONCLAVE_CLI_RUN_REQUEST_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "router_service/engine.h"

namespace conclave {

// What the engine said of a request.
struct RequestOutcome {
  std::vector<int32_t> ids;                    // generated
  std::vector<TokenLogprobs> prompt_logprobs;  // where asked for
};

// Submits the request and returns when it has ended. The errors of Engine::Submit, and of the sequence.
absl::StatusOr<RequestOutcome> RunToEnd(Engine& engine, EngineRequest request);

}  // namespace conclave

#endif  // CONCLAVE_CLI_RUN_REQUEST_H_
