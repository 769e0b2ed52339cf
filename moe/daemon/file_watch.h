// Tells when files change, by looking at them now and then.
#ifndef CONCLAVE_MOE_DAEMON_FILE_WATCH_H_
#define CONCLAVE_MOE_DAEMON_FILE_WATCH_H_

#include <sys/types.h>

#include <ctime>
#include <functional>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace conclave {

// Links are followed, as a mounted Kubernetes secret is one that moves. What happens to files between the constructor
// and Start counts as a change: whoever reads them in between overlooks nothing.
class FileWatch {
 public:
  explicit FileWatch(std::vector<std::string> paths);
  ~FileWatch();  // waits for on_change where it runs
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

  // Looks every `poll` from now on. `on_change` runs on the watch's thread. `settled`: only once the files have stayed
  // the same from one look to the next, since what belongs together is not replaced at once. To be called once.
  void Start(absl::Duration poll, bool settled, std::function<void()> on_change);

 private:
  // What changes where a file does; all zero where there is none.
  using Stamp = std::tuple<dev_t, ino_t, off_t, time_t, long>;

  void Watch(absl::Duration poll, bool settled, const std::function<void()>& on_change);
  std::vector<Stamp> Look() const;

  const std::vector<std::string> paths_;
  std::vector<Stamp> seen_;  // the thread's, once there is one
  absl::Mutex mutex_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_FILE_WATCH_H_
