#include "moe/base/thread_options.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/cpus.h"

namespace conclave {
namespace {

TEST(ThreadOptionsTest, TakesAThreadForEachCore) {
  const ThreadPlan plan = *PlanThreads({});
  EXPECT_EQ(plan.threads, UsableCores());
  EXPECT_TRUE(plan.cpus.empty());
  EXPECT_EQ(PlanThreads({.threads = 3})->threads, 3);
}

TEST(ThreadOptionsTest, TakesAThreadForEachCpuOfTheList) {
  const std::vector<int> usable = UsableCpus();
  const ThreadPlan plan = *PlanThreads({.cpus = FormatCpuList(usable)});
  EXPECT_EQ(plan.threads, static_cast<int>(usable.size()));
  EXPECT_EQ(plan.cpus, usable);
  const ThreadPlan more = *PlanThreads({.threads = 3, .cpus = absl::StrCat(usable.back())});
  EXPECT_EQ(more.threads, 3);
  EXPECT_EQ(more.cpus, (std::vector<int>{usable.back()}));
}

TEST(ThreadOptionsTest, NamesTheFlag) {
  EXPECT_EQ(PlanThreads({.threads = -1}).status().message(), "--threads: -1 is not in [0, 1024]");
  EXPECT_EQ(PlanThreads({.cpus = "1023"}).status().message(),
            absl::StrCat("--cpus: CPU 1023 is not there, or not for this process; it may use ",
                         FormatCpuList(UsableCpus())));
  EXPECT_TRUE(absl::StartsWith(PlanThreads({.cpus = "two"}).status().message(), "--cpus: 'two' is no list of CPUs"));
}

TEST(ThreadOptionsTest, KeepsTheProcessOnItsCpus) {
  const int last = UsableCpus().back();
  std::vector<int> with_list, without;
  std::thread([&] {
    ASSERT_TRUE(PlanAndKeepThreads({}).ok());
    without = UsableCpus();
    ASSERT_TRUE(PlanAndKeepThreads({.cpus = absl::StrCat(last)}).ok());
    with_list = UsableCpus();
  }).join();
  EXPECT_EQ(without, UsableCpus());
  EXPECT_EQ(with_list, (std::vector<int>{last}));
}

}  // namespace
}  // namespace conclave
