// expert_service --model DIR --shard-index I --shard-count N: one shard of the experts, as a process.
#include <cstdlib>

#include "expert_service/expert_service.h"
#include "moe/base/cpus.h"
#include "moe/daemon/flags.h"

namespace {

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

int main(int argc, char** argv) {
  conclave::ExpertServiceOptions options;
  conclave::Flags flags("expert_service", "Runs rows of activations through the experts of one shard.");
  options.AddTo(flags);
  const absl::StatusOr<bool> parsed = flags.Parse(argc, argv);
  if (!parsed.ok()) return conclave::ExitWith("expert_service", parsed.status(), 2);
  if (!*parsed) return 0;
  options.hub = {Variable("HF_HUB_CACHE"), Variable("HF_HOME"), Variable("HOME")};
  if (const absl::Status valid = options.Validate(); !valid.ok()) {
    return conclave::ExitWith("expert_service", valid, 2);
  }
  // On a machine that it shares with its attention service, that one has the say: a shard that took the core away from
  // it while it still sends rows to the other shards would keep them waiting.
  conclave::LetOthersGoFirst();
  return conclave::ExitWith("expert_service", conclave::RunExpertService(options), 1);
}
