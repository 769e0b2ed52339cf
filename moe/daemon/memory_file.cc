#include "moe/daemon/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

absl::Status Failed(absl::string_view what) {
  return absl::ResourceExhaustedError(absl::StrCat("a file in memory: ", what, ": ", strerror(errno)));
}

}  // namespace

MemoryFile::~MemoryFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status MemoryFile::Set(absl::string_view content) {
  const int fresh = memfd_create("conclave", MFD_CLOEXEC);
  if (fresh < 0) return Failed("memfd_create");
  for (absl::string_view left = content; !left.empty();) {
    const ssize_t written = write(fresh, left.data(), left.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const absl::Status status = Failed("write");
      close(fresh);
      return status;
    }
    left.remove_prefix(static_cast<size_t>(written));
  }
  if (fd_ < 0) {
    fd_ = fresh;
    return absl::OkStatus();
  }
  // The number stays, and so does the path; what is behind it changes in one step.
  const bool replaced = dup3(fresh, fd_, O_CLOEXEC) >= 0;
  const absl::Status status = replaced ? absl::OkStatus() : Failed("dup3");
  close(fresh);
  return status;
}

std::string MemoryFile::path() const { return absl::StrCat("/proc/self/fd/", fd_); }

}  // namespace conclave
