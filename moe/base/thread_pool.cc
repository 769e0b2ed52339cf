#include "moe/base/thread_pool.h"

#include <algorithm>

#include "moe/base/check.h"

namespace conclave {

struct ThreadPool::Loop {
  int64_t count;
  int64_t grain;
  absl::FunctionRef<void(int64_t, int64_t)> body;
  std::atomic<int64_t> next{0};
};

ThreadPool::ThreadPool(int threads) {
  CONCLAVE_CHECK(threads >= 1) << "a pool needs at least the calling thread";
  workers_.reserve(threads - 1);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { Work(); });
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

void ThreadPool::Work() {
  uint64_t seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    start_.wait(lock, [&] { return stop_ || (loop_ != nullptr && generation_ != seen); });
    if (stop_) return;
    seen = generation_;
    Loop* loop = loop_;
    ++working_;
    lock.unlock();
    RunPieces(*loop);
    lock.lock();
    if (--working_ == 0) done_.notify_one();
  }
}

void ThreadPool::ParallelFor(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  Loop loop{count, grain, body};
  if (workers_.empty() || count <= grain) {
    RunPieces(loop);
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    CONCLAVE_CHECK(loop_ == nullptr) << "ParallelFor is not reentrant and has one caller at a time";
    loop_ = &loop;
    ++generation_;
  }
  start_.notify_all();
  RunPieces(loop);
  // The pieces are all taken; wait for the workers that still run one, and let nobody join late.
  std::unique_lock<std::mutex> lock(mutex_);
  loop_ = nullptr;
  done_.wait(lock, [&] { return working_ == 0; });
}

}  // namespace conclave
