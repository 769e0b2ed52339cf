#include "moe/base/cpus.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/test_folder.h"

namespace conclave {
namespace {

void WriteFile(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

TEST(CpusTest, ReadsListsInTheirOrder) {
  EXPECT_EQ(*ParseCpuList("0"), (std::vector<int>{0}));
  EXPECT_EQ(*ParseCpuList("8,0-3"), (std::vector<int>{8, 0, 1, 2, 3}));
  EXPECT_EQ(*ParseCpuList("5-5,1"), (std::vector<int>{5, 1}));
}

TEST(CpusTest, RefusesWhatIsNoListAndSaysWhy) {
  for (const auto& [text, why] : {std::pair("", "'' is neither"), std::pair("1,,2", "'' is neither"),
                                  std::pair("a", "'a' is neither"), std::pair("1-2-3", "'1-2-3' is neither"),
                                  std::pair("-1", "'-1' is neither"), std::pair("3-1", "'3-1' does not ascend"),
                                  std::pair("0-99999999", "does not ascend within 0-1023"),
                                  std::pair("0-3,2", "CPU 2 stands in it twice")}) {
    const absl::Status status = ParseCpuList(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_TRUE(absl::StrContains(status.message(), why)) << status;
  }
}

TEST(CpusTest, WritesRanges) {
  EXPECT_EQ(FormatCpuList({}), "");
  EXPECT_EQ(FormatCpuList({8, 2, 0, 1, 3, 5, 6}), "0-3,5-6,8");
}

TEST(CpusTest, NamesTheCpuThatIsNotThere) {
  const std::vector<int> usable = UsableCpus();
  ASSERT_FALSE(usable.empty());
  EXPECT_TRUE(CheckUsable(usable).ok());
  EXPECT_EQ(CheckUsable({usable[0], 1023}).message(),
            absl::StrCat("CPU 1023 is not there, or not for this process; it may use ", FormatCpuList(usable)));
}

TEST(CpusTest, KeepsAThreadOnACpu) {
  const int last = UsableCpus().back();
  std::vector<int> seen;
  std::thread([&] {
    ASSERT_TRUE(KeepThisThreadOn({last}).ok());
    std::thread([&] { seen = UsableCpus(); }).join();  // what it starts keeps to it too
  }).join();
  EXPECT_EQ(seen, (std::vector<int>{last}));
}

TEST(CpusTest, LetsOthersGoFirstFromOneThreadOn) {
  int inherited = -1;
  std::thread([&] {
    LetOthersGoFirst();
    std::thread([&] { inherited = sched_getscheduler(0); }).join();
  }).join();
  EXPECT_EQ(inherited, SCHED_BATCH);
  EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
}

TEST(CpusTest, CountsNoMoreCoresThanTheQuotaAllows) {
  const std::filesystem::path group = std::filesystem::path(TestFolder()) / "group";
  const int cpus = static_cast<int>(UsableCpus().size());
  EXPECT_EQ(UsableCores((group / "absent").string()), cpus);
  WriteFile(group / "cpu.max", "max 100000\n");
  EXPECT_EQ(UsableCores(group.string()), cpus);
  WriteFile(group / "cpu.max", "50000 100000\n");
  EXPECT_EQ(UsableCores(group.string()), 1);
  WriteFile(group / "cpu.max", absl::StrCat(100000 * int64_t{cpus} + 1, " 100000\n"));
  EXPECT_EQ(UsableCores(group.string()), cpus);
}

TEST(CpusTest, SortsByNodeThenByCore) {
  const std::filesystem::path sysfs = std::filesystem::path(TestFolder()) / "sysfs";
  // Two nodes of two cores of two hardware threads each, numbered as Linux numbers them on most machines.
  WriteFile(sysfs / "node/online", "0-1\n");
  WriteFile(sysfs / "node/node0/cpulist", "0,2,4,6\n");
  WriteFile(sysfs / "node/node1/cpulist", "1,3,5,7\n");
  for (int cpu = 0; cpu < 8; ++cpu) {
    WriteFile(sysfs / absl::StrCat("cpu/cpu", cpu, "/topology/thread_siblings_list"),
              absl::StrCat(cpu % 4, ",", cpu % 4 + 4, "\n"));
  }
  EXPECT_EQ(SortByLocality({0, 1, 2, 3, 4, 5, 6, 7}, sysfs.string()), (std::vector<int>{0, 4, 2, 6, 1, 5, 3, 7}));
  EXPECT_EQ(SortByLocality({7, 2, 1}, sysfs.string()), (std::vector<int>{2, 1, 7}));
  EXPECT_EQ(SortByLocality({3, 1}, (sysfs / "absent").string()), (std::vector<int>{1, 3}));
}

}  // namespace
}  // namespace conclave
