// A fixed pool for data-parallel loops. How a loop is split never changes a result: callers give each index
// its own output.
#ifndef CONCLAVE_MOE_BASE_THREAD_POOL_H_
#define CONCLAVE_MOE_BASE_THREAD_POOL_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace conclave {

// ParallelFor may be called by one thread at a time (the engine's, or a shard's); it takes part in the work.
//
// A model's step is a hundred short loops in a row, and waking a sleeping thread costs as much as one of them. So
// whoever waits looks for a while before it sleeps: for as long as looking has paid lately, kSpinMax at most. An idle
// pool sleeps, and so does one whose neighbours need the cores.
class ThreadPool {
 public:
  static constexpr std::chrono::microseconds kSpinMax{64};

  // `threads` counts the caller too; 1 means no helper threads. With `cpus` thread i runs on cpus[i % size] alone, and
  // whoever calls ParallelFor, which is thread 0, stays on cpus[0] from then on. REQUIRES: threads >= 1
  explicit ThreadPool(int threads, std::vector<int> cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(begin, end) over pieces that cover [0, count) and begin at multiples of `grain`, and returns when all
  // are done. Each thread has a section of its own, of which it takes half of what is left again and again, so that
  // what it works on lies side by side in few calls; then it takes from the ends of others' sections. Where there are
  // no more grains than threads, a piece is one grain. `body` must not throw and must not call ParallelFor. Allocates
  // nothing.
  void ParallelFor(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t begin, int64_t end)> body);

  // The next loop is far, or others have work for the cores until then: workers sleep at once. Called between loops, by
  // whoever calls ParallelFor.
  void Rest() { resting_ = true; }

 private:
  struct Loop;
  // Grains [begin, end) that a thread has left, in one word: begin in the upper half.
  struct alignas(64) Section {
    std::atomic<uint64_t> left{0};
  };
  // How long one thread looks before it sleeps: doubled when it saw what it waited for, halved when not.
  class Patience;

  void PinThisThread(int index) const;
  void Work(int index);
  void Divide(int64_t grains);
  void RunPieces(const Loop& loop, int index);
  void WaitForLoop(uint64_t seen, Patience& patience);
  void WaitForWorkers();

  const std::vector<int> cpus_;    // empty: anywhere
  std::vector<Section> sections_;  // [threads] of the current loop
  // A worker counts itself into working_ before it reads loop_; the caller clears loop_ before it reads working_.
  // Sequentially consistent, so that either the worker sees no loop, or the caller sees the worker.
  std::atomic<Loop*> loop_{nullptr};
  std::atomic<int> working_{0};          // workers that may be inside the current loop
  std::atomic<uint64_t> generation_{0};  // counts loops, so that a worker joins each at most once
  std::atomic<bool> stop_{false};
  std::atomic<bool> resting_{false};     // until the next loop
  // Who sleeps says so first and then looks once more; who changes something looks for sleepers afterwards.
  std::atomic<int> sleeping_workers_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::mutex mutex_;  // of the two conditions
  std::condition_variable start_, done_;
  std::vector<std::thread> workers_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_THREAD_POOL_H_
