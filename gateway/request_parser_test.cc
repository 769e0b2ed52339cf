#include "gateway/request_parser.h"

#include <random>
#include <string>

#include "conclave/v1/inference.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

// The wire form of a string field, whose bytes protobuf's own setters need not accept.
std::string StringField(int number, const std::string& bytes) {
  return std::string(1, static_cast<char>(number << 3 | 2)) + std::string(1, static_cast<char>(bytes.size())) + bytes;
}

std::string Refusal(const std::string& bytes) {
  v1::GenerateRequest request;
  const absl::Status status = ParseRequest(bytes, &request);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(ParseRequest, ReadsWhatIsWellFormed) {
  v1::GenerateRequest request, parsed;
  request.set_text("grüße 🙂");
  request.set_max_tokens(3);
  EXPECT_TRUE(ParseRequest(request.SerializeAsString(), &parsed).ok());
  EXPECT_EQ(parsed.text(), "grüße 🙂");
  EXPECT_TRUE(ParseRequest("", &parsed).ok());
}

TEST(ParseRequest, NamesTheStringThatIsNotUtf8) {
  EXPECT_EQ(Refusal(StringField(2, "a\xff")), "text: is not UTF-8");
  // A lone surrogate, and half a character.
  EXPECT_EQ(Refusal(StringField(2, "\xed\xa0\x80")), "text: is not UTF-8");
  EXPECT_EQ(Refusal(StringField(1, "\xc3")), "model: is not UTF-8");
  const std::string message = StringField(1, "user") + StringField(2, "\xfe");
  EXPECT_EQ(Refusal(StringField(3, StringField(1, message))), "chat.messages.content: is not UTF-8");
}

TEST(ParseRequest, ADamagedMessageIsRefused) {
  EXPECT_THAT(Refusal("\x12"), HasSubstr("damaged"));
  EXPECT_THAT(Refusal("\x12\xff\xff\xff\xff\x0f"), HasSubstr("conclave.v1.GenerateRequest"));
  EXPECT_THAT(Refusal(std::string(100, '\xff')), HasSubstr("damaged"));
}

TEST(ParseRequest, SurvivesRandomBytes) {
  std::mt19937 random(7);
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes(random() % 40, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    v1::GenerateRequest request;
    const absl::Status status = ParseRequest(bytes, &request);
    EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status));
  }
}

}  // namespace
}  // namespace conclave
