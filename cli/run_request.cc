#include "cli/run_request.h"

#include <future>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "moe/base/status_macros.h"

namespace conclave {

absl::StatusOr<RequestOutcome> RunToEnd(Engine& engine, EngineRequest request) {
  struct State {
    RequestOutcome outcome;
    absl::Status status;
    std::promise<void> ended;
  };
  // Shared with the engine's thread, which may still be inside the callback when the wait below is over.
  const auto state = std::make_shared<State>();
  RETURN_IF_ERROR(engine
                      .Submit(std::move(request),
                              [state](const TokenEvent& event) {
                                if (event.token >= 0) state->outcome.ids.push_back(event.token);
                                if (!event.prompt_logprobs.empty()) {
                                  state->outcome.prompt_logprobs = event.prompt_logprobs;
                                }
                                if (!event.ended()) return;
                                state->status = event.status;
                                state->ended.set_value();
                              })
                      .status());
  state->ended.get_future().wait();
  RETURN_IF_ERROR(state->status);
  return state->outcome;
}

}  // namespace conclave
