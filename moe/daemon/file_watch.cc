#include "moe/daemon/file_watch.h"

#include <sys/stat.h>

#include <utility>

namespace conclave {

FileWatch::FileWatch(std::vector<std::string> paths) : paths_(std::move(paths)), seen_(Look()) {}

FileWatch::~FileWatch() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void FileWatch::Start(absl::Duration poll, bool settled, std::function<void()> on_change) {
  thread_ = std::thread([this, poll, settled, on_change = std::move(on_change)] { Watch(poll, settled, on_change); });
}

std::vector<FileWatch::Stamp> FileWatch::Look() const {
  std::vector<Stamp> stamps;
  for (const std::string& path : paths_) {
    struct stat file {};
    const bool found = ::stat(path.c_str(), &file) == 0;
    stamps.push_back(
        found ? Stamp(file.st_dev, file.st_ino, file.st_size, file.st_mtim.tv_sec, file.st_mtim.tv_nsec) : Stamp());
  }
  return stamps;
}

void FileWatch::Watch(absl::Duration poll, bool settled, const std::function<void()>& on_change) {
  bool due = false;
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&ending_), poll)) return;
    }
    std::vector<Stamp> now = Look();
    const bool changed = now != seen_;
    seen_ = std::move(now);
    due = due || changed;
    if (!due || (settled && changed)) continue;
    due = false;
    on_change();
  }
}

}  // namespace conclave
