// Memory as weights lie in it, and how fast all threads together can read it when they do nothing else.
#ifndef CONCLAVE_CLI_MEMORY_READS_H_
#define CONCLAVE_CLI_MEMORY_READS_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "moe/base/thread_pool.h"

namespace conclave {

// Two pools of anonymous memory, in huge pages where the kernel has some, as mapped weights ask for them too: one for
// whoever is measured and one for reads, so that neither finds in a cache what the other has just read. Reads go
// through theirs in order, from its end on to its beginning again. Used by one thread.
class MemoryReads {
 public:
  // More than the caches that a small machine may call its own.
  static constexpr int64_t kPoolBytes = int64_t{512} << 20;

  // Takes, fills and reads the memory: a second. Bytes are such that every reading of them is a small finite number.
  // `threads` must outlive this.
  explicit MemoryReads(ThreadPool& threads);

  const uint8_t* pool() const { return memory_.get(); }  // [kPoolBytes] for whoever is measured

  // Reads the next piece, some milliseconds' worth. GB/s.
  double ReadOn();
  // The median of as many pieces as `seconds` hold, and of three times through the pool at least. GB/s.
  double Measure(double seconds);

 private:
  struct Unmap {
    void operator()(uint8_t* memory) const;
  };
  // Reads [begin, end) KiB and returns something that depends on all of it.
  using Reader = uint64_t (*)(const uint8_t* begin, const uint8_t* end);

  static const Reader kReaders[];
  double ReadOn(Reader reader);

  ThreadPool& threads_;
  const int64_t piece_bytes_;
  std::unique_ptr<uint8_t, Unmap> memory_;  // both pools, one behind the other
  int64_t offset_ = 0;                      // of the next piece
  Reader reader_;                           // the fastest on this machine
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_MEMORY_READS_H_
