// gateway --model DIR --router HOST:PORT: what clients talk to, as a process.
#include <cstdlib>
#include <string>

#include "gateway/gateway.h"
#include "moe/daemon/flags.h"

namespace {

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

int main(int argc, char** argv) {
  conclave::GatewayOptions options;
  conclave::Flags flags("gateway", "Takes the requests of clients and answers them with an attention service.");
  options.AddTo(flags);
  const absl::StatusOr<bool> parsed = flags.Parse(argc, argv);
  if (!parsed.ok()) return conclave::ExitWith("gateway", parsed.status(), 2);
  if (!*parsed) return 0;
  options.hub = {Variable("HF_HUB_CACHE"), Variable("HF_HOME"), Variable("HOME")};
  if (const absl::Status valid = options.Validate(); !valid.ok()) return conclave::ExitWith("gateway", valid, 2);
  return conclave::ExitWith("gateway", conclave::RunGateway(options), 1);
}
