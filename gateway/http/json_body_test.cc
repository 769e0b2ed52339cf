#include "gateway/http/json_body.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Refusal(absl::string_view text) {
  const auto body = ParseJsonBody(text);
  EXPECT_FALSE(body.ok()) << text;
  return std::string(body.status().message());
}

TEST(JsonBody, ReadsWhatItIsGiven) {
  const auto body = ParseJsonBody(R"({"a": [1, -2, {"b": "é\u0000🙂"}], "c": null, "d": 1e2, "e": {}})");
  ASSERT_TRUE(body.ok()) << body.status();
  EXPECT_EQ((*body)["a"][2]["b"], std::string("é\0🙂", 7));
  EXPECT_EQ(body->dump(), R"({"a":[1,-2,{"b":"é\u0000🙂"}],"c":null,"d":100.0,"e":{}})");
}

TEST(JsonBody, DamageIsNamedByItsPlaceInTreeAndText) {
  EXPECT_THAT(Refusal(R"({"n": })"), AllOf(StartsWith("n: not valid JSON"), HasSubstr("(byte 7)")));
  EXPECT_THAT(Refusal(R"({"a": {"b": [1, {"c": NaN}]}})"), StartsWith("a.b[1].c: not valid JSON"));
  EXPECT_THAT(Refusal(R"({"a": [1, 2, 1e999]})"), StartsWith("a[2]: the number 1e999 is too large"));
  EXPECT_THAT(Refusal(R"({"m": [{"x": 1}, {"x": 1, "x": 2}]})"), StartsWith("m[1].x: stands twice"));
  EXPECT_THAT(Refusal(R"({"a": 1, "a": 2})"), StartsWith("a: stands twice"));
  EXPECT_THAT(Refusal(R"({"a": {"b": 1}, "c": "\ud800"})"), StartsWith("c: holds half of a surrogate pair"));
  EXPECT_THAT(Refusal("{\"a\": {\"b\": 1}, \"c\": \"\xff\"}"), StartsWith("c: is not UTF-8 (byte"));
  EXPECT_THAT(Refusal(R"({"a": 1} x)"), StartsWith("the body: not valid JSON"));
}

TEST(JsonBody, OnlyAnObjectIsABody) {
  for (const char* text : {"", "null", "[]", "1", "\"a\"", "{} {}"})
    EXPECT_THAT(Refusal(text), StartsWith("the body: "));
  EXPECT_THAT(Refusal(absl::string_view("{}\0", 3)), HasSubstr("a zero byte (byte 3)"));
}

TEST(JsonBody, DepthAndCountHaveLimits) {
  const std::string deep = absl::StrCat("{\"a\": ", std::string(100'000, '['));
  EXPECT_THAT(Refusal(deep), HasSubstr("nested deeper than 64"));
  const std::string fits = absl::StrCat("{\"a\": ", std::string(63, '['), std::string(63, ']'), "}");
  EXPECT_TRUE(ParseJsonBody(fits).ok());
  std::string many = "{\"a\": [0";
  for (int64_t i = 0; i < kJsonValuesMax; ++i) many += ",0";
  EXPECT_THAT(Refusal(many + "]}"), HasSubstr("more than 4000000 values"));
}

}  // namespace
}  // namespace conclave
