// Counts the calls that are open in a service, so that its drain can refuse new ones and wait for the last.
#ifndef CONCLAVE_MOE_DAEMON_OPEN_CALLS_H_
#define CONCLAVE_MOE_DAEMON_OPEN_CALLS_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace conclave {

// Thread-safe.
class OpenCalls {
 public:
  // False: draining, the call must be refused. True: Leave must follow.
  bool Enter() {
    absl::MutexLock lock(&mutex_);
    if (draining_) return false;
    ++open_;
    return true;
  }
  void Leave() {
    absl::MutexLock lock(&mutex_);
    --open_;
  }
  int open() const {
    absl::MutexLock lock(&mutex_);
    return open_;
  }
  // From now on Enter refuses.
  void Close() {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
  }
  // Closes, and waits until no call is open. False: the deadline came first.
  bool Drain(absl::Time deadline) {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    return mutex_.AwaitWithDeadline(absl::Condition(
                                        +[](int* open) { return *open == 0; }, &open_),
                                    deadline);
  }

 private:
  mutable absl::Mutex mutex_;
  int open_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_OPEN_CALLS_H_
