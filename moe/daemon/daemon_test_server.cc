// A service process with nothing in it, for daemon_test: the life of a daemon shows only from outside.
#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "conclave/v1/expert.grpc.pb.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/daemon.h"
#include "moe/daemon/flags.h"
#include "moe/metrics/metrics.h"

namespace conclave {
namespace {

struct Options {
  DaemonOptions daemon;
  bool never_ready = false;
  absl::Duration drain = absl::ZeroDuration();
};

absl::Status Run(const Options& options) {
  const auto metrics = Metrics::Create();
  v1::ExpertService::Service service;
  ASSIGN_OR_RETURN(const auto daemon, Daemon::Create(options.daemon, {&service}, *metrics));
  if (options.never_ready) absl::SleepFor(absl::InfiniteDuration());
  daemon->OnHangup([] { LogInfo("hung up"); });
  daemon->SetServing(true);
  return daemon->Run([&options](absl::Time deadline) {
    LogInfo("draining");
    absl::SleepFor(std::min(options.drain, deadline - absl::Now()));
  });
}

int Main(int argc, char** argv) {
  Options options;
  options.daemon.name = "test";
  Flags flags("daemon_test_server", "Serves nothing.");
  options.daemon.AddTo(flags);
  flags.Add("never-ready", &options.never_ready, "stay in start-up");
  flags.Add("drain", &options.drain, "how long the drain takes");
  const absl::StatusOr<bool> parsed = flags.Parse(argc, argv);
  if (!parsed.ok()) return ExitWith("daemon_test_server", parsed.status(), 2);
  if (!*parsed) return 0;
  return ExitWith("daemon_test_server", Run(options), 1);
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
