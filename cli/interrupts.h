// Ctrl-C as an event: SIGINT on a thread of its own, where anything may be done, unlike in a handler.
#ifndef CONCLAVE_CLI_INTERRUPTS_H_
#define CONCLAVE_CLI_INTERRUPTS_H_

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace conclave {

// While it lives SIGINT ends no process, and calls what is set by During. To be made before other threads are started:
// SIGINT is blocked for the calling thread and for those that it starts from then on.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // Runs `work` on this thread; each SIGINT until it returns calls `on_interrupt` on the own thread, and none does
  // afterwards. A SIGINT outside of any work is dropped.
  void During(std::function<void()> on_interrupt, const std::function<void()>& work);

 private:
  void Watch();

  absl::Mutex mutex_;
  std::function<void()> on_interrupt_ ABSL_GUARDED_BY(mutex_);
  int signal_descriptor_ = -1, end_descriptor_ = -1;
  std::thread thread_;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_INTERRUPTS_H_
