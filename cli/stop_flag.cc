#include "cli/stop_flag.h"

#include <csignal>

namespace conclave {
namespace {

volatile std::sig_atomic_t stop_wanted = 0;

}  // namespace

void CatchStopSignals() {
  std::signal(SIGINT, [](int) { stop_wanted = 1; });
  std::signal(SIGTERM, [](int) { stop_wanted = 1; });
  std::signal(SIGXFSZ, SIG_IGN);
}

bool StopWanted() { return stop_wanted != 0; }

}  // namespace conclave
