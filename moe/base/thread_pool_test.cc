#include "moe/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace conclave {
namespace {

TEST(ThreadPoolTest, CoversEveryIndexExactlyOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int64_t count : {0, 1, 7, 1000}) {
      for (int64_t grain : {0, 1, 3, 2000}) {
        std::vector<int> hits(count, 0);
        pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) ++hits[i];
        });
        EXPECT_EQ(hits, std::vector<int>(count, 1)) << threads << " threads, grain " << grain;
      }
    }
  }
}

TEST(ThreadPoolTest, RunsManyShortLoopsInARow) {
  ThreadPool pool(3);
  std::atomic<int64_t> sum{0};
  for (int loop = 0; loop < 5000; ++loop) {
    pool.ParallelFor(8, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
  }
  EXPECT_EQ(sum, 5000 * 8);
}

// The caller and the workers sleep and wake in every order.
TEST(ThreadPoolTest, WakesAfterRestsOfAnyLength) {
  ThreadPool pool(3);
  std::atomic<int64_t> sum{0};
  for (int loop = 0; loop < 60; ++loop) {
    std::this_thread::sleep_for(std::chrono::microseconds(loop * 7));
    pool.ParallelFor(3, 1, [&](int64_t begin, int64_t end) {
      // Longer than anybody looks on, now and then.
      std::this_thread::sleep_for(std::chrono::microseconds((loop + begin) % 4 == 0 ? 150 : 1));
      sum += end - begin;
    });
  }
  EXPECT_EQ(sum, 60 * 3);
}

}  // namespace
}  // namespace conclave
