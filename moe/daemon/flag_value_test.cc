#include "moe/daemon/flag_value.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

TEST(ByteCount, TakesPlainNumbersAndUnits) {
  EXPECT_EQ(ParseByteCount("4096").value(), 4096);
  EXPECT_EQ(ParseByteCount("0").value(), 0);
  EXPECT_EQ(ParseByteCount("512MiB").value(), int64_t{512} << 20);
  EXPECT_EQ(ParseByteCount("4 GiB").value(), int64_t{4} << 30);
  EXPECT_EQ(ParseByteCount("2gb").value(), 2'000'000'000);
}

TEST(ByteCount, RefusesWhatIsNoSize) {
  for (const char* text : {"", "GiB", "-1", "1.5GiB", "4Gi b", "9223372036854775808", "9000000TiB", "1e9", "0x10"}) {
    EXPECT_EQ(ParseByteCount(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ByteCount, IsShownInTheLargestBinaryUnit) {
  EXPECT_EQ(ShowByteCount(int64_t{4} << 30), "4GiB");
  EXPECT_EQ(ShowByteCount(1536 << 10), "1536KiB");
  EXPECT_EQ(ShowByteCount(1000), "1000");
  EXPECT_EQ(ShowByteCount(0), "0");
}

TEST(SetFlag, TakesTheLastValueOfAScalarAndAllOfAList) {
  int number = 0;
  std::vector<std::string> list = {"old"};
  EXPECT_TRUE(SetFlag(&number, {"1", "2"}).ok());
  EXPECT_EQ(number, 2);
  EXPECT_TRUE(SetFlag(&list, {"a", "b"}).ok());
  EXPECT_EQ(list, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(SetFlag(&list, {}).ok());
  EXPECT_TRUE(list.empty());
}

TEST(SetFlag, SaysWhatItExpectedAndLeavesTheTargetAlone) {
  int number = 7;
  bool on = true;
  double real = 0.5;
  absl::Duration time = absl::Seconds(3);
  EXPECT_THAT(std::string(SetFlag(&number, {"4x"}).message()), HasSubstr("expected an integer, got '4x'"));
  EXPECT_THAT(std::string(SetFlag(&number, {"99999999999"}).message()), HasSubstr("expected an integer"));
  EXPECT_THAT(std::string(SetFlag(&on, {"maybe"}).message()), HasSubstr("expected true or false"));
  EXPECT_THAT(std::string(SetFlag(&real, {"half"}).message()), HasSubstr("expected a number"));
  EXPECT_THAT(std::string(SetFlag(&time, {"-3s"}).message()), HasSubstr("expected a time"));
  EXPECT_EQ(number, 7);
  EXPECT_TRUE(on);
  EXPECT_EQ(real, 0.5);
  EXPECT_EQ(time, absl::Seconds(3));
}

TEST(SetFlag, QuotesNoControlCharactersAndNoLongText) {
  int number = 0;
  const std::string message(SetFlag(&number, {"\x1b[2J\n" + std::string(10000, 'x')}).message());
  EXPECT_EQ(message.find('\x1b'), std::string::npos);
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_LT(message.size(), 200u);
}

}  // namespace
}  // namespace conclave
