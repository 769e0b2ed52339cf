#include "moe/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "moe/base/cpus.h"

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

TEST(ThreadPoolTest, PiecesBeginAtMultiplesOfTheGrainAndAreOneGrainWhereThereAreFew) {
  ThreadPool pool(3);
  for (const int64_t count : {20, 21, 60, 61, 1000}) {
    std::atomic<int> pieces{0};
    pool.ParallelFor(count, 20, [&](int64_t begin, int64_t end) {
      ++pieces;
      EXPECT_EQ(begin % 20, 0);
      EXPECT_TRUE(end % 20 == 0 || end == count) << end;
      if (count <= 60) {
        EXPECT_LE(end - begin, 20);
      }
    });
    if (count <= 60) {
      EXPECT_EQ(pieces, (count + 19) / 20);
    }
  }
}

// Whoever runs the first piece waits in it until all others are done, so that nobody else may leave any of them alone.
TEST(ThreadPoolTest, TakesFromTheSectionsOfThreadsThatAreBusy) {
  ThreadPool pool(3);
  for (int loop = 0; loop < 100; ++loop) {
    std::atomic<int64_t> done{0};
    pool.ParallelFor(3000, 1, [&](int64_t begin, int64_t end) {
      done += end - begin;
      while (begin == 0 && done < 3000) std::this_thread::yield();
    });
    EXPECT_EQ(done, 3000);
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

// The caller's rests begin and end at every moment of the workers' looking and sleeping.
TEST(ThreadPoolTest, WakesWorkersThatWereToldToRest) {
  ThreadPool pool(3);
  std::atomic<int64_t> sum{0};
  std::set<std::thread::id> workers;
  std::mutex mutex;
  for (int loop = 0; loop < 2000; ++loop) {
    pool.Rest();
    if (loop % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(loop % 20));
    pool.ParallelFor(3, 1, [&](int64_t begin, int64_t end) {
      if (loop % 50 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));  // leaves pieces to the others
      sum += end - begin;
      std::lock_guard<std::mutex> lock(mutex);
      workers.insert(std::this_thread::get_id());
    });
  }
  EXPECT_EQ(sum, 2000 * 3);
  EXPECT_EQ(workers.size(), 3u);
}

// Which CPUs the threads of a pool may run on, seen from inside its loops.
std::set<std::vector<int>> CpusOfThreads(ThreadPool& pool) {
  std::mutex mutex;
  std::set<std::vector<int>> seen;
  for (int loop = 0; loop < 300; ++loop) {
    pool.ParallelFor(pool.threads(), 1, [&](int64_t, int64_t) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));  // leaves pieces to the others
      std::lock_guard<std::mutex> lock(mutex);
      seen.insert(UsableCpus());
    });
  }
  return seen;
}

TEST(ThreadPoolTest, PinsEachThreadToItsCpuAndTheCallerToTheFirst) {
  const std::vector<int> usable = UsableCpus();
  std::set<std::vector<int>> expected, seen;
  for (const int cpu : usable) expected.insert({cpu});
  std::vector<int> caller;
  std::thread([&] {
    ThreadPool pool(static_cast<int>(usable.size()), usable);
    seen = CpusOfThreads(pool);
    caller = UsableCpus();
  }).join();
  EXPECT_EQ(seen, expected);
  EXPECT_EQ(caller, (std::vector<int>{usable.front()}));
}

TEST(ThreadPoolTest, LeavesThreadsAloneWithoutAList) {
  ThreadPool pool(2);
  EXPECT_EQ(CpusOfThreads(pool), (std::set<std::vector<int>>{UsableCpus()}));
}

}  // namespace
}  // namespace conclave
