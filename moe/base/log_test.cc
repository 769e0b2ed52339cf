#include "moe/base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class LogTest : public ::testing::Test {
 protected:
  LogTest() {
    SetLogName("test");
    ::testing::internal::CaptureStderr();
  }
  ~LogTest() override { SetLogFormat(LogFormat::kText); }
  static std::string Lines() { return ::testing::internal::GetCapturedStderr(); }
};

TEST_F(LogTest, ATextLineHasLevelTimeNameAndText) {
  LogWarning("be careful");
  EXPECT_THAT(Lines(), MatchesRegex("W 2[0-9-]+T[0-9:.]+Z test: be careful\n"));
}

TEST_F(LogTest, FieldsInATextLineAreQuotedWhereTheyNeedIt) {
  LogFields(LogLevel::kInfo, "http",
            {{"route", "/v1"}, {"status", 200}, {"ok", true}, {"who", "a \"b\"\n"}, {"no", ""}});
  EXPECT_THAT(Lines(), HasSubstr("test: http route=/v1 status=200 ok=true who=\"a \\\"b\\\"\\n\" no=\"\"\n"));
}

TEST_F(LogTest, AJsonLineIsOneObject) {
  SetLogFormat(LogFormat::kJson);
  LogInfo("a \"quoted\"\nline");
  LogFields(LogLevel::kError, "http", {{"status", int64_t{5}}, {"ok", false}, {"who", "x y"}});
  const std::string lines = Lines();
  EXPECT_THAT(lines,
              HasSubstr("\"level\": \"info\", \"process\": \"test\", \"message\": \"a \\\"quoted\\\"\\nline\"}\n"));
  EXPECT_THAT(lines, HasSubstr("\"level\": \"error\", \"process\": \"test\", \"event\": \"http\", \"status\": 5, "
                               "\"ok\": false, \"who\": \"x y\"}\n"));
}

}  // namespace
}  // namespace conclave
