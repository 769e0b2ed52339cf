// Time behind an interface, so that tests of deadlines and back-off need not sleep.
#ifndef CONCLAVE_MOE_BASE_CLOCK_H_
#define CONCLAVE_MOE_BASE_CLOCK_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace conclave {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() = 0;
  // The machine's clock; never null, lives for ever.
  static Clock* Real();
};

// Stands still until told otherwise. Thread-safe.
class FakeClock final : public Clock {
 public:
  absl::Time Now() override;
  void Advance(absl::Duration by);

 private:
  absl::Mutex mutex_;
  absl::Time now_ ABSL_GUARDED_BY(mutex_) = absl::UnixEpoch();
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_CLOCK_H_
