#include "moe/base/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <limits>
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

  // Grains [begin, end).
  void Run(uint64_t begin, uint64_t end) const {
    body(static_cast<int64_t>(begin) * grain, std::min(count, static_cast<int64_t>(end) * grain));
  }
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

ThreadPool::ThreadPool(int threads, std::vector<int> cpus)
    : cpus_(std::move(cpus)), sections_(static_cast<size_t>(std::max(threads, 1))) {
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

void ThreadPool::Divide(int64_t grains) {
  const auto threads = static_cast<int64_t>(sections_.size());
  CONCLAVE_CHECK(grains <= std::numeric_limits<uint32_t>::max() / threads) << grains << " grains";
  for (int64_t i = 0; i < threads; ++i) {
    const auto begin = static_cast<uint64_t>(grains * i / threads),
               end = static_cast<uint64_t>(grains * (i + 1) / threads);
    sections_[static_cast<size_t>(i)].left.store(begin << 32 | end, std::memory_order_relaxed);
  }
}

// The order of the sections' words does not matter: what a loop reads and writes is handed over by loop_ and working_.
void ThreadPool::RunPieces(const Loop& loop, int index) {
  for (size_t i = 0; i < sections_.size();) {
    const size_t owner = (static_cast<size_t>(index) + i) % sections_.size();
    std::atomic<uint64_t>& left = sections_[owner].left;
    uint64_t seen = left.load(std::memory_order_relaxed);
    const uint64_t begin = seen >> 32, end = seen & 0xffffffff;
    if (begin == end) {
      ++i;
      continue;
    }
    const uint64_t taken = (end - begin + 1) / 2;
    const uint64_t rest = i == 0 ? (begin + taken) << 32 | end : begin << 32 | (end - taken);
    if (!left.compare_exchange_weak(seen, rest, std::memory_order_relaxed)) continue;
    i == 0 ? loop.Run(begin, begin + taken) : loop.Run(end - taken, end);
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
    if (Loop* loop = loop_; loop != nullptr) RunPieces(*loop, index);
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
  if (workers_.empty() || count <= grain) return body(0, count);
  CONCLAVE_CHECK(loop_ == nullptr) << "ParallelFor is not reentrant and has one caller at a time";
  resting_ = false;
  Loop loop{count, grain, body};
  Divide((count + grain - 1) / grain);
  loop_ = &loop;
  ++generation_;
  if (sleeping_workers_ > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    start_.notify_all();
  }
  RunPieces(loop, 0);
  // The pieces are all taken; let nobody join late, and wait for the workers that still run one.
  loop_ = nullptr;
  WaitForWorkers();
}

}  // namespace conclave
