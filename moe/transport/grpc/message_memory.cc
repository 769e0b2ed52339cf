#include "moe/transport/grpc/message_memory.h"

#include <malloc.h>

namespace conclave {

void KeepMessageMemory() {
#if defined(__GLIBC__)
  [[maybe_unused]] static const bool once = [] {
    // Both, since setting one of them ends glibc's own adjustment of the other.
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
    return true;
  }();
#endif
}

}  // namespace conclave
