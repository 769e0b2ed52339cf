#include "moe/base/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "moe/base/check.h"
#include "moe/base/cpus.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::nanoseconds kSpinMin = std::chrono::microseconds(4);

// Tells the core that this is a waiting loop.
inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

struct ThreadPool::Loop {
  int64_t count;
  int64_t grain;
  absl::FunctionRef<void(int64_t, int64_t)> body;
  std::atomic<int64_t> next{0};
};

class ThreadPool::Patience {
 public:
  // Looks until `ready`, or until patience ends, or no longer than it may; whether it was ready.
  template <class Ready, class May>
  bool Look(const Ready& ready, const May& may) {
    constexpr int kLooksPerClock = 16;  // reading the clock costs as much as some pauses
    const Clock::time_point end = Clock::now() + limit_;
    do {
      for (int i = 0; i < kLooksPerClock; ++i) {
        if (ready()) {
          limit_ = std::min<std::chrono::nanoseconds>(2 * limit_, kSpinMax);
          return true;
        }
        if (!may()) return false;
        Pause();
      }
    } while (Clock::now() < end);
    limit_ = std::max(limit_ / 2, kSpinMin);
    return false;
  }

 private:
  std::chrono::nanoseconds limit_ = kSpinMax;
};

ThreadPool::ThreadPool(int threads, std::vector<int> cpus) : cpus_(std::move(cpus)) {
  CONCLAVE_CHECK(threads >= 1) << "a pool needs at least the calling thread";
  workers_.reserve(threads - 1);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { Work(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  start_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunPieces(Loop& loop) {
  while (true) {
    const int64_t begin = loop.next.fetch_add(loop.grain, std::memory_order_relaxed);
    if (begin >= loop.count) return;
    loop.body(begin, std::min(loop.count, begin + loop.grain));
  }
}

void ThreadPool::PinThisThread(int index) const {
  if (cpus_.empty()) return;
  thread_local int pinned_to = -1;
  const int cpu = cpus_[static_cast<size_t>(index) % cpus_.size()];
  if (std::exchange(pinned_to, cpu) == cpu) return;
  const absl::Status pinned = KeepThisThreadOn({cpu});
  if (!pinned.ok()) LogWarning(pinned.message());  // slower where it went away under us, and no less right
}

void ThreadPool::Work(int index) {
  PinThisThread(index);
  Patience patience;
  uint64_t seen = 0;
  while (true) {
    WaitForLoop(seen, patience);
    if (stop_) return;
    ++working_;
    seen = generation_;
    if (Loop* loop = loop_; loop != nullptr) RunPieces(*loop);
    if (--working_ == 0 && caller_sleeps_) {
      std::lock_guard<std::mutex> lock(mutex_);
      done_.notify_one();
    }
  }
}

void ThreadPool::WaitForLoop(uint64_t seen, Patience& patience) {
  const auto ready = [&] { return stop_ || generation_ != seen; };
  if (patience.Look(ready, [this] { return !resting_; })) return;
  std::unique_lock<std::mutex> lock(mutex_);
  ++sleeping_workers_;
  start_.wait(lock, ready);
  --sleeping_workers_;
}

void ThreadPool::WaitForWorkers() {
  const auto ready = [&] { return working_ == 0; };
  Patience patience;  // a fresh one: the last pieces of a loop end soon
  if (patience.Look(ready, [] { return true; })) return;
  std::unique_lock<std::mutex> lock(mutex_);
  caller_sleeps_ = true;
  done_.wait(lock, ready);
  caller_sleeps_ = false;
}

void ThreadPool::ParallelFor(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> body) {
  if (count <= 0) return;
  PinThisThread(0);
  grain = std::max<int64_t>(grain, 1);
  Loop loop{count, grain, body};
  if (workers_.empty() || count <= grain) {
    RunPieces(loop);
    return;
  }
  CONCLAVE_CHECK(loop_ == nullptr) << "ParallelFor is not reentrant and has one caller at a time";
  resting_ = false;
  loop_ = &loop;
  ++generation_;
  if (sleeping_workers_ > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    start_.notify_all();
  }
  RunPieces(loop);
  // The pieces are all taken; let nobody join late, and wait for the workers that still run one.
  loop_ = nullptr;
  WaitForWorkers();
}

}  // namespace conclave
