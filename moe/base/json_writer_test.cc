#include "moe/base/json_writer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace conclave {
namespace {

TEST(JsonWriterTest, NestsObjectsAndArraysWithCommasBetween) {
  JsonWriter json;
  json.BeginObject().Key("ids").Numbers(std::vector<int32_t>{1, -2}).Key("empty").Numbers({});
  json.Key("list").BeginArray().BeginObject().Key("a").Bool(true).End().BeginObject().End().Null().End();
  json.Key("x").Real(0.5).Key("nan").Real(std::nan("")).End();
  EXPECT_EQ(json.text(), R"({"ids": [1, -2], "empty": [], "list": [{"a": true}, {}, null], "x": 0.5, "nan": null})");
}

TEST(JsonWriterTest, AFloatHasTheFewestDigitsThatReadBack) {
  JsonWriter json;
  json.BeginArray().Float32(-0.1f).Float32(0).Float32(-1e-10f).Float32(std::nanf("")).End();
  EXPECT_EQ(json.text(), "[-0.1, 0, -1e-10, null]");
}

TEST(JsonWriterTest, EscapesWhatJsonWantsEscapedAndKeepsTheRest) {
  JsonWriter json;
  json.Text("quote \" backslash \\ line\nreturn\rtab\t bell\a é 什");
  EXPECT_EQ(json.text(), "\"quote \\\" backslash \\\\ line\\nreturn\\rtab\\t bell\\u0007 é 什\"");
}

}  // namespace
}  // namespace conclave
