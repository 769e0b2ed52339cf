// The process-wide SIGBUS handler behind MappedFile: it knows the address ranges of mapped files and replaces
// a page that has gone from the file by zeros, remembering that it did.
#ifndef CONCLAVE_MOE_CHECKPOINT_SIGBUS_GUARD_H_
#define CONCLAVE_MOE_CHECKPOINT_SIGBUS_GUARD_H_

#include <cstddef>
#include <cstdint>

namespace conclave::sigbus_guard {

// How many ranges can be watched at once.
inline constexpr int kSlots = 4096;

// Watches [begin, begin + bytes) until Unwatch. The first call installs the handler; a SIGBUS at any other address
// goes on to the handler that was there before. Returns a slot, or -1 when all slots are taken. Thread-safe.
int Watch(const std::byte* begin, int64_t bytes);
// Forgets the range. REQUIRES: nobody reads it any more.
void Unwatch(int slot);
// Whether a page of the range has been replaced by zeros. One relaxed load.
bool Damaged(int slot);

}  // namespace conclave::sigbus_guard

#endif  // CONCLAVE_MOE_CHECKPOINT_SIGBUS_GUARD_H_
