// SIGTERM, SIGINT and SIGHUP on a thread of their own, where anything may be done, unlike in a handler.
#ifndef CONCLAVE_MOE_DAEMON_STOP_SIGNALS_H_
#define CONCLAVE_MOE_DAEMON_STOP_SIGNALS_H_

#include <atomic>
#include <functional>
#include <thread>

namespace conclave {

// Lives from the start of main to its end.
class StopSignals {
 public:
  // Blocks the signals for the calling thread and every thread that it starts from now on; they stay blocked.
  // `on_signal` runs on the own thread for each signal that arrives.
  explicit StopSignals(std::function<void(int signal)> on_signal);
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

 private:
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_STOP_SIGNALS_H_
