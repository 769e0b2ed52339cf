// A file without a place on any disk, whose content is replaced as a whole.
#ifndef CONCLAVE_MOE_DAEMON_MEMORY_FILE_H_
#define CONCLAVE_MOE_DAEMON_MEMORY_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace conclave {

// For libraries that take paths alone. Only this process can open it, and it goes with the process.
class MemoryFile {
 public:
  MemoryFile() = default;
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  // From now on whoever opens path() reads `content`; whoever has it open goes on reading what was there.
  // RESOURCE_EXHAUSTED: the kernel gives no file.
  absl::Status Set(absl::string_view content);
  // The same for as long as this lives. REQUIRES: Set succeeded once
  std::string path() const;

 private:
  int fd_ = -1;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_MEMORY_FILE_H_
