// A fixed pool for data-parallel loops. How a loop is split never changes a result: callers give each index
// its own output.
#ifndef CONCLAVE_MOE_BASE_THREAD_POOL_H_
#define CONCLAVE_MOE_BASE_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace conclave {

// ParallelFor may be called by one thread at a time (the engine's, or a shard's); it takes part in the work.
class ThreadPool {
 public:
  // `threads` counts the caller too; 1 means no helper threads. REQUIRES: threads >= 1
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(begin, end) over pieces that cover [0, count), each at most `grain` long, and returns when all
  // are done. `body` must not throw and must not call ParallelFor. Allocates nothing.
  void ParallelFor(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t begin, int64_t end)> body);

 private:
  struct Loop;
  void Work();
  void RunPieces(Loop& loop);

  std::mutex mutex_;
  std::condition_variable start_, done_;
  Loop* loop_ = nullptr;      // guarded by mutex_
  uint64_t generation_ = 0;   // guarded by mutex_: counts loops, so that a worker joins each at most once
  int working_ = 0;           // guarded by mutex_: workers inside the current loop
  bool stop_ = false;         // guarded by mutex_
  std::vector<std::thread> workers_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_THREAD_POOL_H_
