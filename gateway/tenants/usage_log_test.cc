#include "gateway/tenants/usage_log.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/test_folder.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

std::vector<nlohmann::json> Lines(const std::string& path) {
  std::vector<nlohmann::json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

UsageRecord Record(const std::string& id) {
  UsageRecord record;
  record.arrival = absl::UnixEpoch();
  record.end = absl::UnixEpoch() + absl::Milliseconds(1234);
  record.request_id = id;
  record.tenant = "research";
  record.model = "demo";
  record.answers = 2;
  record.prompt_tokens = 10;
  record.cached_tokens = 4;
  record.completion_tokens = 30;
  record.finish_reasons = {"stop", "length"};
  return record;
}

std::string FreshPath(const std::string& name) {
  const std::string path = TestFolder() + "/" + name;
  std::remove(path.c_str());
  std::remove((path + ".1").c_str());
  return path;
}

TEST(UsageLog, WritesOneObjectALine) {
  const std::string path = FreshPath("usage.jsonl");
  {
    const auto log = UsageLog::Open(path, 0);
    ASSERT_TRUE(log.ok()) << log.status();
    (*log)->Write(Record("a"));
    UsageRecord refused = Record("b\xff\n");
    refused.code = absl::StatusCode::kResourceExhausted;
    refused.limit = "tokens_per_minute";
    (*log)->Write(refused);
  }
  const auto log = UsageLog::Open(path, 0);
  (*log)->Write(Record("c"));
  const auto lines = Lines(path);
  ASSERT_THAT(lines, SizeIs(3)) << "a second run adds to the file";
  EXPECT_EQ(lines[0].dump(),
            R"({"cached_tokens":4,"code":"OK","completion_tokens":30,"duration_ms":1234,)"
            R"("finish_reasons":["stop","length"],"model":"demo","n":2,"prompt_tokens":10,"request_id":"a",)"
            R"("tenant":"research","time":"1970-01-01T00:00:00.000Z"})");
  EXPECT_EQ(lines[1]["limit"], "tokens_per_minute");
  EXPECT_EQ(lines[1]["code"], "RESOURCE_EXHAUSTED");
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST(UsageLog, AMovedFileIsLeftAloneAfterReopen) {
  const std::string path = FreshPath("moved.jsonl");
  const auto log = UsageLog::Open(path, 0);
  (*log)->Write(Record("a"));
  std::rename(path.c_str(), (path + ".1").c_str());
  (*log)->Write(Record("b"));  // nothing is lost before the signal
  (*log)->Reopen();
  (*log)->Write(Record("c"));
  EXPECT_THAT(Lines(path + ".1"), SizeIs(2));
  EXPECT_THAT(Lines(path), SizeIs(1));
}

TEST(UsageLog, AFullFileMakesRoomForANewOne) {
  const std::string path = FreshPath("full.jsonl");
  const int64_t line = static_cast<int64_t>(ShowUsage(Record("0")).size()) + 1;
  const auto log = UsageLog::Open(path, 3 * line);
  for (int i = 0; i < 5; ++i) (*log)->Write(Record(absl::StrCat(i)));
  EXPECT_THAT(Lines(path + ".1"), SizeIs(3));
  EXPECT_THAT(Lines(path), SizeIs(2));
}

TEST(UsageLog, LinesOfManyThreadsStayWholeThroughRotations) {
  const std::string path = FreshPath("threads.jsonl");
  const auto log = UsageLog::Open(path, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&log, t] {
      for (int i = 0; i < 200; ++i) (*log)->Write(Record(absl::StrCat(t, "-", i)));
    });
  }
  std::rename(path.c_str(), (path + ".1").c_str());
  (*log)->Reopen();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Lines(path).size() + Lines(path + ".1").size(), 800u);
}

TEST(UsageLog, ALineThatDoesNotFitLeavesNoPartOfItself) {
  signal(SIGXFSZ, SIG_IGN);  // a file beyond the limit is an error then, as a full disk is
  const std::string path = FreshPath("full.jsonl");
  const auto log = UsageLog::Open(path, 0);
  ASSERT_TRUE(log.ok()) << log.status();
  for (int i = 0; i < 10; ++i) (*log)->Write(Record("first"));
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit little = {10 * (ShowUsage(Record("first")).size() + 1) + 50, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &little), 0);
  testing::internal::CaptureStderr();
  (*log)->Write(Record("second"));
  const std::string complaint = testing::internal::GetCapturedStderr();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_THAT(complaint, HasSubstr("could not be written: File too large"));
  (*log)->Write(Record("third"));
  const auto lines = Lines(path);
  ASSERT_THAT(lines, SizeIs(11));
  EXPECT_EQ(lines[9]["request_id"], "first");
  EXPECT_EQ(lines[10]["request_id"], "third");
}

TEST(UsageLog, APathThatCannotBeWrittenIsNamed) {
  EXPECT_THAT(std::string(UsageLog::Open("/nowhere/usage.jsonl", 0).status().message()),
              HasSubstr("/nowhere/usage.jsonl"));
}

}  // namespace
}  // namespace conclave
