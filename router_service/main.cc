// router_service --model DIR --shard HOST:PORT …: the attention service, as a process.
#include <cstdlib>
#include <string>

#include "moe/daemon/flags.h"
#include "router_service/router_service.h"

namespace {

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

int main(int argc, char** argv) {
  conclave::RouterServiceOptions options;
  conclave::Flags flags("router_service", "Runs all of a model but its experts, and routes every token to those.");
  options.AddTo(flags);
  const absl::StatusOr<bool> parsed = flags.Parse(argc, argv);
  if (!parsed.ok()) return conclave::ExitWith("router_service", parsed.status(), 2);
  if (!*parsed) return 0;
  options.hub = {Variable("HF_HUB_CACHE"), Variable("HF_HOME"), Variable("HOME")};
  if (const absl::Status valid = options.Validate(); !valid.ok()) {
    return conclave::ExitWith("router_service", valid, 2);
  }
  return conclave::ExitWith("router_service", conclave::RunRouterService(options), 1);
}
